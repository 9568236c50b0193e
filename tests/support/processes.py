"""Processes of the service under test, for stacks and for the fault suite."""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.forked import FORKS, become
from tests.support.waiting import until


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

    async def until_logged(self, text: str, count: int = 1) -> str:
        """Wait until the output contains `text` `count` times, and return it. Lines are written some milliseconds late."""
        return await until(self.output, lambda output: output.count(text) >= count)

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


async def run_command(
    arguments: list[str], environment: dict[str, str], folder: Path, seconds: float = 120, *, module: str = "cli"
) -> "subprocess.CompletedProcess[str]":
    """Run the `posthaste` command, or another module, to its end, with an empty standard input."""
    with tempfile.TemporaryDirectory(dir=folder) as streams:
        output, errors = Path(streams, "output"), Path(streams, "errors")
        forked = FORKS.Process(target=become, args=([module, *arguments], environment, str(output), str(errors)), daemon=True)
        forked.start()
        await asyncio.to_thread(forked.join, seconds)
        if forked.exitcode is None:
            forked.kill()
            raise AssertionError(f"{module} {arguments} still runs after {seconds:g} s")
        return subprocess.CompletedProcess(arguments, forked.exitcode, output.read_text("utf-8"), errors.read_text("utf-8"))
