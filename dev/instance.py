"""One private instance of one service: started and stopped for a user, killed and frozen by tests.

redis = Instance.of("redis", Path(".local")); redis.start(); redis.kill()
"""

import pwd
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dev import ports
from dev.errors import ServiceError
from dev.home import Home, Record
from dev.postgres import POSTGRES
from dev.process import Process, spawn
from dev.rabbitmq import RABBITMQ
from dev.redis import REDIS
from dev.service import Place, Ports, Service
from dev.source import Source

SERVICES: dict[str, Service] = {service.name: service for service in (POSTGRES, RABBITMQ, REDIS)}


def _silent(_line: str) -> None:
    """Report nothing."""


class Instance:
    """A service run from the distribution's package, for one root; its record is read from disk each time."""

    def __init__(self, service: Service, home: Home, report: Callable[[str], None] = _silent) -> None:
        self.service = service
        self.home = home
        self.report = report

    @classmethod
    def of(cls, name: str, root: Path) -> "Instance":
        """The instance of `postgres`, `rabbitmq` or `redis` that belongs to this root."""
        return cls(SERVICES[name], Home(root))

    def installed(self) -> bool:
        """Whether the package is there, its user included (a half-done installation has the one without the other)."""
        user = self.home.user_for(self.service.user)
        return self.service.installed() and (user is None or user in {entry.pw_name for entry in pwd.getpwall()})

    @property
    def record(self) -> Record:
        """Its ports and processes; empty before its first start."""
        record = self.home.load(self.service.name)
        return record if record is not None and record.source == Source.PACKAGES else Record(Source.PACKAGES)

    @property
    def server(self) -> Process | None:
        """The server's process while it runs."""
        process = self.record.processes.get("server")
        return process if process is not None and process.is_alive() else None

    @property
    def pid(self) -> int | None:
        """The server's pid while it runs."""
        server = self.server
        return server.pid if server else None

    @property
    def variables(self) -> dict[str, str]:
        """The URLs by which Posthaste finds it; its ports are settled by its first start."""
        return self.service.variables(self.record.ports, self.home.password())

    def place(self) -> Place:
        """Where it runs now."""
        return self._place(self.record.ports)

    def start(self, interrupted: threading.Event | None = None) -> None:
        """Start it unless it runs, and wait until it is ready. ServiceError carries the end of its log."""
        began = time.monotonic()
        interrupted = interrupted or threading.Event()
        if self.server is not None and self._survives(interrupted):
            self._report_state("runs already")
            return
        self._launch()
        self._wait(interrupted)
        self._report_state(f"ready after {time.monotonic() - began:.1f} s")

    def stop(self) -> bool:
        """End it orderly, and after a deadline by force; False when nothing of it ran."""
        running = {role: process for role, process in self.record.processes.items() if process.is_alive()}
        for role, process in reversed(running.items()):
            number, grace = self.service.end if role == "server" else (signal.SIGTERM, 5.0)
            if self.is_displaced and not self.service.movable:  # in an orderly end it would write into its former folder
                number = signal.SIGKILL
            orderly = process.end(number, grace)
            self.report(f"stopped (pid {process.pid}, {role}){'' if orderly else ' by force, as it would not end'}")
        return bool(running)

    @property
    def is_displaced(self) -> bool:
        """Whether its folder was moved since it was started."""
        return self.home.former is not None and not self.home.apart

    def signal(self, number: int) -> None:
        """Send a signal to the server's process alone."""
        if server := self.server:
            server.send(number)

    def freeze(self) -> None:
        """Suspend the server and all its processes (SIGSTOP); connections stay open."""
        if server := self.server:
            server.freeze_family()

    def thaw(self) -> None:
        """Resume a frozen instance."""
        if server := self.server:
            server.send_to_family(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL the server and all its processes, as a crash of the machine would."""
        if server := self.server:
            server.kill_family()

    def _survives(self, interrupted: threading.Event) -> bool:
        """Wait for a server that runs; False when it was already about to end."""
        try:
            self._wait(interrupted)
        except ServiceError:
            if self.server is not None:
                raise
            return False
        return True

    def _wait(self, interrupted: threading.Event) -> None:
        try:
            self.service.wait_until_ready(self.variables, ended=lambda: self.server is None, interrupted=interrupted)
        except ServiceError as error:
            raise ServiceError(f"{error}\n{self._end_of_log()}") from error
        self.service.finish(self.place())

    def _launch(self) -> None:
        for process in self.record.processes.values():
            process.end(signal.SIGTERM, grace=5)
        self.home.create()
        candidates = iter(random.sample(self.service.candidates, len(self.service.candidates)))
        place = self._place(ports.settle(self.service.ports, self.record.ports, candidates))
        log = self.home.log(self.service.name)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        self.report(f"starting {self.service.version()} of the distribution's package, data in {place.folder}")
        if note := self.service.prepare(place):
            self.report(note)
        record = Record(Source.PACKAGES, dict(place.ports))
        for role, command in self.service.commands(place).items():
            process = spawn(command.arguments, folder=place.folder, user=place.user, environment=command.environment, log=log)
            record = replace(record, processes={**record.processes, role: process})
            self.home.save(self.service.name, record)

    def _place(self, ports: Ports) -> Place:
        user = self.home.user_for(self.service.user)
        return Place(self.home.folder(self.service.name, user), user, ports, self.home.key, self.home.password())

    def _report_state(self, state: str) -> None:
        addresses = ", ".join(f"{name} 127.0.0.1:{self.record.ports[name]}" for name in self.service.container_ports)
        self.report(f"{state}: {self.service.version()}, private, {addresses}")

    def _end_of_log(self, lines: int = 15) -> str:
        log = self.home.log(self.service.name)
        text = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"the end of {log}:", *(f"  | {line}" for line in text[-lines:])])
