"""A system that runs: its processes, started and ended by their pids."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.client import Provider, connect
from benchmarks.peers.servers import ROOT, Servers
from benchmarks.peers.systems import Command, System
from dev.ports import free_port
from dev.process import Process, spawn

START_SECONDS = 60.0
END_SECONDS = 20.0


class CannotStart(Exception):
    """A process ended, or did not answer in time. The message has the end of its log."""


@dataclass
class Running:
    """One system on the servers. Its workers start and end separately from its API."""

    system: System
    servers: Servers
    provider: Provider
    folder: Path
    port: int = field(default_factory=free_port)
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Prepare the system; start its API and the processes beside it. Returns once the API answers."""
        for command in self.system.prepare:
            await asyncio.to_thread(self._run, command)
        self._spawn("api", self.system.api)
        for role, command in self.system.others.items():
            self._spawn(role, command)
        await self._until_it_answers()

    def start_worker(self) -> None:
        if self.system.worker is not None:
            self._spawn("worker", self.system.worker)

    async def kill_worker(self) -> None:
        """SIGKILL the worker's processes at once."""
        await asyncio.to_thread(self.processes.pop("worker").kill_family)

    async def stop_worker(self) -> None:
        await asyncio.to_thread(self.processes.pop("worker").end, signal.SIGTERM, END_SECONDS)

    async def stop(self) -> None:
        """End all its processes, and by force those that do not end."""
        for process in reversed(self.processes.values()):
            await asyncio.to_thread(process.end, signal.SIGTERM, END_SECONDS)

    def log(self, role: str) -> Path:
        return self.folder / f"{self.system.name}-{role}.log"

    def end_of_log(self, role: str) -> str:
        lines = self.log(role).read_text(errors="replace").splitlines()[-15:] if self.log(role).exists() else []
        return "\n".join(lines)

    def _spawn(self, role: str, command: Command) -> None:
        words = self._words(command)
        self.processes[role] = spawn(words, folder=self.folder, user=None, environment=self._environment(), log=self.log(role))

    def _run(self, command: Command) -> None:
        done = subprocess.run(
            self._words(command),
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise CannotStart(f"{self.system.title}: {done.stdout[-2000:]}")

    def _words(self, command: Command) -> list[str]:
        return [word.format(port=self.port) for word in command]

    def _environment(self) -> dict[str, str]:
        return self.system.environment(self.servers, self.provider.base, self.port, self.folder)

    async def _until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                connection = await connect(self.base)
                answer = await connection.request("GET", "/health/ready")  # a peer answers 404
                connection.close()
                if answer.status in (200, 404):
                    return
            except OSError:
                pass
            if time.monotonic() > deadline or not self.processes["api"].is_alive():
                raise CannotStart(f"{self.system.title}: {self.end_of_log('api')}")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running(system: System, servers: Servers, provider: Provider, folder: Path) -> AsyncIterator[Running]:
    """Start a system on emptied servers, without its worker. End all of it afterwards."""
    await servers.empty()
    await provider.reset()
    started = Running(system, servers, provider, folder)
    try:
        await started.start()
        yield started
    finally:
        await started.stop()


@asynccontextmanager
async def serving_provider(folder: Path, python: str) -> AsyncIterator[tuple[Provider, Process]]:
    """Run the provider in a process of its own."""
    port, log = free_port(), folder / "provider.log"
    command = [python, "-m", "benchmarks.peers.provider", str(port)]
    process = spawn(command, folder=folder, user=None, environment={"PYTHONPATH": str(ROOT)}, log=log)
    provider, deadline = Provider(f"http://127.0.0.1:{port}"), time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                await provider.count()
                break
            except OSError:
                if time.monotonic() > deadline or not process.is_alive():
                    raise CannotStart(f"provider: {log.read_text(errors='replace')}") from None
                await asyncio.sleep(0.05)
        yield provider, process
    finally:
        await asyncio.to_thread(process.end, signal.SIGTERM, END_SECONDS)
