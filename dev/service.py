"""The parts that differ between Postgres, RabbitMQ and Redis: addresses, readiness, and the private instance."""

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from dev.errors import AbandonedError, NotReadyError, ServiceError

Ports = Mapping[str, int]
PROBE_SECONDS = 2


@dataclass(frozen=True)
class Place:
    """Where one private instance lives: its folder, its user (None: ourselves), its ports."""

    folder: Path
    user: str | None
    ports: Ports
    key: str
    password: str


@dataclass(frozen=True)
class Command:
    """One process to start."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Service(ABC):
    """One service.

    The candidates lie below the kernel's range for outgoing connections, beside the standard ports, and no two services
    share one.
    """

    name: str
    title: str
    variable: str
    container_ports: ClassVar[Ports]
    candidates: range
    timeout_seconds: float = 60
    # of the distribution's package
    package: str
    user: str
    ports: Sequence[str]  # all that a private instance listens on
    movable = True  # whether a running server and its data survive when their folder is moved
    end: tuple[signal.Signals, float]  # the signal for an orderly end, and the seconds it may take

    @abstractmethod
    def variables(self, ports: Ports, password: str) -> dict[str, str]:
        """The URLs by which Posthaste finds it."""

    @abstractmethod
    def check(self, variables: Mapping[str, str]) -> None:
        """Connect to it; NotReadyError carries its answer. An open port is no proof: Docker's proxy always accepts."""

    @abstractmethod
    def installed(self) -> bool:
        """Whether the package's binaries exist."""

    @abstractmethod
    def version(self) -> str:
        """Name and version, for people."""

    @abstractmethod
    def prepare(self, place: Place) -> str | None:
        """Make data and configuration; called before each start. Returns a line to report, if there is one."""

    def discard(self, place: Place, reason: str) -> None:  # noqa: B027 - only of services that are not movable
        """Have `prepare` delete the data at the next start."""

    def finish(self, place: Place) -> None:  # noqa: B027 - most services have nothing to do
        """Complete a start; called once the service is ready."""

    @abstractmethod
    def commands(self, place: Place) -> Mapping[str, Command]:
        """The processes by role, in the order of starting; the last is the server itself."""

    def wait_until_ready(
        self, variables: Mapping[str, str], *, ended: Callable[[], bool], interrupted: threading.Event
    ) -> None:
        """Check until it is ready; ServiceError once it ended or timed out, AbandonedError on interruption."""
        deadline = time.monotonic() + self.timeout_seconds
        while True:
            try:
                self.check(variables)
                reason = ""
            except NotReadyError as error:
                reason = str(error)
            if ended():  # another server may have answered on its port
                raise ServiceError("ended while it was starting")
            if not reason:
                return
            if time.monotonic() > deadline:
                raise ServiceError(f"was not ready within {self.timeout_seconds:.0f} s: {reason}")
            if interrupted.wait(0.1):
                raise AbandonedError
