"""`posthaste up` in a terminal: problems are shown, keys do not stop it, and it ends with its terminal."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dev.ports import free_port
from tests.support.services import Services, proxied
from tests.support.waiting import eventually

COMMAND = [sys.executable, "-m", "cli"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    """`posthaste up` in a pseudo-terminal. `screen` is everything it wrote, without control sequences."""

    process: "subprocess.Popen[bytes]"
    descriptor: int
    port: int
    written: bytearray

    @property
    def screen(self) -> str:
        return CONTROL.sub("", self.written.decode(errors="replace"))

    async def shows(self, text: str, times: int = 1) -> None:
        async def screen() -> str:
            return self.screen

        await eventually(screen, lambda screen: screen.count(text) >= times, 100)

    def close(self) -> None:
        """Close the terminal, as a user closes its window."""
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)
        self.descriptor = -1

    def service(self) -> list[psutil.Process]:
        """supervisord and the processes of the service."""
        return psutil.Process(self.process.pid).children(recursive=True)


@asynccontextmanager
async def _terminal(environment: dict[str, str], folder: Path, *, hangs_up: bool = True) -> AsyncIterator[Terminal]:
    """`hangs_up`: whether its processes get SIGHUP when it is closed."""
    port, sandbox_port = free_port(), free_port()
    controller, terminal_side = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "up", "--sandbox", "--sandbox-port", str(sandbox_port), "--first-message"],
        env=environment | {"POSTHASTE_PORT": str(port), "TERM": "xterm", "COLUMNS": "200"}, cwd=folder,
        stdin=terminal_side, stdout=terminal_side, stderr=terminal_side, start_new_session=True,
        preexec_fn=_own_terminal if hangs_up else None,
    )  # fmt: skip
    os.close(terminal_side)
    terminal = Terminal(process, controller, port, bytearray())

    def read() -> None:
        with suppress(OSError):  # the last process has closed it
            terminal.written += os.read(controller, 65_536)

    asyncio.get_running_loop().add_reader(controller, read)
    service: list[psutil.Process] = []
    try:
        await terminal.shows("Ctrl-C ends it")
        service = terminal.service()
        yield terminal
        for member in service:
            await asyncio.to_thread(member.wait, 60)
    finally:
        if terminal.descriptor >= 0:
            terminal.close()
        for member in [*service, psutil.Process(process.pid)] if process.poll() is None else service:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait(30)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _environment(services: Services, database: str, namespace: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("POSTHASTE_")},
        "POSTHASTE_DATABASE_URL": database,
        "POSTHASTE_AMQP_URL": services.amqp,
        "POSTHASTE_REDIS_URL": services.redis,
        "POSTHASTE_NAMESPACE": namespace,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout's folder, in which `make services` has run."""
    (tmp_path / ".local").mkdir()
    return tmp_path


async def _command(*arguments: str, environment: dict[str, str], folder: Path) -> str:
    done = await asyncio.to_thread(
        subprocess.run, [*COMMAND, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_keys_do_not_stop_it_and_an_outage_is_shown_once(
    services: Services, database: str, broker_namespace: str, folder: Path
) -> None:
    redis, proxy = await proxied(services.redis)
    environment = _environment(services, database, broker_namespace) | {"POSTHASTE_REDIS_URL": redis}
    await _command("clients", "create", "shop", environment=environment, folder=folder)
    await _command("keys", "create", "shop", environment=environment, folder=folder)
    async with _terminal(environment, folder) as terminal:
        assert "POST /messages → 202" in terminal.screen and "→ sent" in terminal.screen
        assert "Keys           on" in terminal.screen and ".local/api-key" in terminal.screen
        await terminal.shows("accepted 1  sent 1")
        assert "job.sent" not in terminal.screen
        assert (folder / ".local/api-key").stat().st_mode & 0o077 == 0
        await proxy.refuse()
        await terminal.shows("redis.down")
        await proxy.accept()
        await terminal.shows("redis.up")
        assert terminal.screen.count("redis.down") == terminal.screen.count("redis.up") == 1
        api = next(member for member in terminal.service() if "api" in member.cmdline())
        api.kill()
        await terminal.shows("api exited (SIGKILL), restarted")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.shows("Stopped.")
        assert await asyncio.to_thread(terminal.process.wait, 60) == 0
    assert sorted(file.name for file in (folder / ".local").iterdir()) == ["api-key", "callback-secret"]
    await proxy.close()


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_it_ends_with_its_terminal(
    services: Services, database: str, broker_namespace: str, folder: Path, hangs_up: bool
) -> None:
    async with _terminal(_environment(services, database, broker_namespace), folder, hangs_up=hangs_up) as terminal:
        record = json.loads(next((folder / ".local").glob("up-*.json")).read_text())
        assert record["pid"] == terminal.process.pid
        terminal.close()
        assert await asyncio.to_thread(terminal.process.wait, 60) == 0


async def test_the_service_ends_with_a_killed_run_and_with_make_stop(
    services: Services, database: str, broker_namespace: str, folder: Path
) -> None:
    environment = _environment(services, database, broker_namespace)
    async with _terminal(environment, folder) as terminal:
        terminal.process.kill()
    # The next run makes its own settings anew: the killed one's are no longer in force.
    async with _terminal(environment, folder) as terminal:
        assert "→ sent" in terminal.screen
        stop = [sys.executable, "-m", "dev", "stop", "--root", str(folder / ".local")]
        ran = await asyncio.to_thread(subprocess.run, stop, capture_output=True, text=True, check=True, timeout=90)
        assert f"ends the run of process {terminal.process.pid}" in ran.stdout
        assert terminal.process.wait(0) == 0
