"""What a private instance needs from a recipe: what to install, what to prepare, what to run and how to end it."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dev.catalogue import Service


@dataclass(frozen=True)
class Place:
    """Where one private instance lives: its folder, its user (None: ourselves), its ports."""

    folder: Path
    user: str | None
    ports: Mapping[str, int]
    key: str
    password: str


@dataclass(frozen=True)
class Command:
    """One process to start."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Recipe(Protocol):
    """How the distribution's package of one service becomes a private instance."""

    @property
    def service(self) -> Service: ...

    @property
    def package(self) -> str:
        """The package to install."""

    @property
    def user(self) -> str:
        """The user the package made for its service."""

    @property
    def ports(self) -> Sequence[str]:
        """The names of all ports that a private instance listens on."""

    @property
    def end(self) -> tuple[signal.Signals, float]:
        """The signal for an orderly end of the server, and the seconds it may take."""

    def installed(self) -> bool:
        """Whether the binaries are there."""

    def version(self) -> str:
        """Name and version, as shown to people."""

    def prepare(self, place: Place) -> None:
        """Make data and configuration; called before each start."""

    def commands(self, place: Place) -> Mapping[str, Command]:
        """What to run, by role, in the order of starting; the last is the server itself."""
