"""The short fuzz run: every boundary of the OpenAPI document, deterministically. `make fuzz` adds random values."""

from pathlib import Path

from tests.fuzz.run import SETTINGS, fuzz
from tests.support.services import Services
from tests.support.stack import running


async def test_every_operation_behaves_as_documented(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, **SETTINGS) as stack:  # type: ignore[arg-type]
        done = await fuzz(stack, "--phases", "examples,coverage", "--seed", "1")
        assert done.returncode == 0, done.stdout[-6000:]
        assert "Tested: 31" in done.stdout
        assert "request.failed" not in stack.processes["api"].output()
