"""Processes of the service under test, for stacks and for the fault suite."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from service.settings import PREFIX
from tests.support.forked import FORKS, become


def free_port() -> int:
    """A free port below the ephemeral range of Linux: no outgoing connection takes it before its server binds."""
    while True:
        port = random.SystemRandom().randrange(28_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def environment_without_settings() -> dict[str, str]:
    """This process' environment without settings, so that no test reaches the services of others."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def as_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings under the names of their environment variables."""
    return {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}


@dataclass
class Process:
    """One process of the service; a file holds its output."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    forked: ForkServerProcess | None = None

    def start(self) -> None:
        target, arguments = self.entry_point()
        self.forked = FORKS.Process(target=target, args=arguments, daemon=True)
        self.forked.start()

    def entry_point(self) -> tuple[Callable[..., None], tuple[object, ...]]:
        """The function that the forked process runs, and its arguments."""
        return become, (self.command, self.environment, str(self.log))

    def is_alive(self) -> bool:
        return self.forked is not None and self.forked.is_alive()

    def signal(self, number: signal.Signals) -> None:
        assert self.forked is not None and self.forked.pid
        os.kill(self.forked.pid, number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.wait()

    async def wait(self, seconds: float = 60) -> int:
        """Wait for the exit code, in a thread: proxies and sandbox continue."""
        assert self.forked is not None
        await asyncio.to_thread(self.forked.join, seconds)
        assert self.forked.exitcode is not None, f"{self.command} still runs after {seconds:g} s"
        return self.forked.exitcode

    def end(self) -> None:
        """Kill the process if it runs; SIGKILL also ends a stopped one."""
        if self.forked is not None and self.forked.is_alive():
            self.forked.kill()
            self.forked.join()

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


async def run_command(
    arguments: list[str], environment: dict[str, str], folder: Path, seconds: float = 120
) -> "subprocess.CompletedProcess[str]":
    """Run the `posthaste` command to its end, with an empty standard input."""
    with tempfile.TemporaryDirectory(dir=folder) as streams:
        output, errors = Path(streams, "output"), Path(streams, "errors")
        forked = FORKS.Process(target=become, args=(["cli", *arguments], environment, str(output), str(errors)), daemon=True)
        forked.start()
        await asyncio.to_thread(forked.join, seconds)
        if forked.exitcode is None:
            forked.kill()
            raise AssertionError(f"posthaste {arguments} still runs after {seconds:g} s")
        return subprocess.CompletedProcess(arguments, forked.exitcode, output.read_text("utf-8"), errors.read_text("utf-8"))
