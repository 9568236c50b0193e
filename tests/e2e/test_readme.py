"""The README's commands run as they stand, in its order, and print what their comments promise."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from dev.ports import is_free
from dev.stack import as_variables, environment_without_settings, free_port
from tests.e2e.quick_start import commands, promises, run_beside
from tests.support.services import Services

API, SANDBOX = 9006, 9007


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="there is no curl on this machine")
async def test_the_commands_of_the_readme_print_what_it_promises(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    api, sandbox = (port if is_free(port) else free_port() for port in (API, SANDBOX))
    settings = {
        "database_url": database, "amqp_url": services.amqp, "redis_url": services.redis,
        "namespace": broker_namespace, "port": str(api),
    }  # fmt: skip
    service = [sys.executable, "-m", "cli", "up", "--sandbox", "--sandbox-port", str(sandbox), "--first-message"]
    script = commands()
    assert f":{API}/" in script and f":{SANDBOX}/" in script and len(promises(script)) > 5
    script = script.replace(f":{API}/", f":{api}/").replace(f":{SANDBOX}/", f":{sandbox}/")
    await asyncio.to_thread(run_beside, service, script, tmp_path, environment_without_settings() | as_variables(settings))
