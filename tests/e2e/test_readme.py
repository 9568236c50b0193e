"""The shell commands of README and of the page on callbacks run as they stand, and print what they promise."""

import asyncio
import os
import shutil
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.ports import free_port, is_free
from dev.stack import as_variables, environment_without_settings
from tests.e2e.quick_start import SHELLS, commands, promises, run, running, up
from tests.support.services import Services

API, SANDBOX, RECEIVER = 9006, 9007, 9008  # the ports that the pages name

pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None and "CI" not in os.environ, reason="there is no curl on this machine"
)


@dataclass
class Checkout:
    """A folder with `.venv` and `.local`, and a free port for each that the pages name."""

    folder: Path
    environment: dict[str, str]
    ports: dict[int, int]

    def up(self) -> AbstractContextManager[None]:
        """What `make run` runs."""
        self.environment["POSTHASTE_PORT"] = str(self.ports[API])
        options = ["--sandbox", "--sandbox-port", str(self.ports[SANDBOX]), "--first-message"]
        return up([sys.executable, "-m", "cli", "up", *options], self.folder, self.environment)

    def run(self, shell: str, script: str) -> str:
        for named, port in self.ports.items():
            script = script.replace(f"127.0.0.1:{named}", f"127.0.0.1:{port}")
        return run(shell, script, self.folder, self.environment)


@pytest.fixture
def checkout(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> Checkout:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    settings = {
        "database_url": database, "amqp_url": services.amqp, "redis_url": services.redis, "namespace": broker_namespace,
    }  # fmt: skip
    ports = {port: free_port() for port in (API, SANDBOX, RECEIVER)}
    return Checkout(tmp_path, environment_without_settings() | as_variables(settings), ports)


async def test_the_commands_of_the_readme_print_what_their_comments_promise(checkout: Checkout) -> None:
    # Verbatim if the ports that README names are free. No other test binds them.
    checkout.ports |= {port: port for port in (API, SANDBOX) if is_free(port)}

    def run_readme() -> None:
        script = "".join(commands("README.md"))
        assert len(promises(script)) > 5
        with checkout.up():
            for shell in SHELLS:
                checkout.run(shell, script)

    await asyncio.to_thread(run_readme)


async def test_the_receiver_of_the_page_on_callbacks_prints_the_callback(checkout: Checkout) -> None:
    def run_page() -> None:
        listen, submit = commands("docs/callbacks.md")
        listen = listen.replace("callbacks listen", f"callbacks listen --port {checkout.ports[RECEIVER]}")
        receiver = running(["sh", "-c", listen], "listening", checkout.folder, checkout.environment)
        with checkout.up(), receiver as process:
            assert '"data":' in checkout.run("sh", submit) and process.stdout is not None
            assert process.stdout.readline().startswith("verified: webhook-id")
            assert "message.sent" in process.stdout.readline()

    await asyncio.to_thread(run_page)


def test_a_broken_promise_is_an_error(tmp_path: Path) -> None:
    script = "echo 202 Accepted, not sent yet     # 202 Accepted … sent\necho resent                      # sent\n"
    with pytest.raises(AssertionError, match="promises 'sent' next"):
        run("sh", script, tmp_path, os.environ)
