"""One private instance of one service: started, stopped, or hurt on purpose by a test.

redis = Instance.of("redis", Path(".local")); redis.start(); redis.kill()
"""

import pwd
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from dev import ports
from dev.catalogue import wait_until_ready
from dev.errors import ServiceError
from dev.home import Home, Memory
from dev.postgres import PrivatePostgres
from dev.process import Process, spawn
from dev.rabbitmq import PrivateRabbitMQ
from dev.recipes import Place, Recipe
from dev.redis import PrivateRedis

RECIPES: dict[str, Recipe] = {
    "postgres": PrivatePostgres(),
    "rabbitmq": PrivateRabbitMQ(),
    "redis": PrivateRedis(),
}
SOURCE = "packages"


def _silent(_line: str) -> None:
    """Say nothing."""


class Instance:
    """A service run from the distribution's package, for one root; what is known of it is read from disk each time."""

    def __init__(self, recipe: Recipe, home: Home, say: Callable[[str], None] = _silent) -> None:
        self.recipe = recipe
        self.service = recipe.service
        self.home = home
        self.say = say

    @classmethod
    def of(cls, name: str, root: Path) -> "Instance":
        """The instance of `postgres`, `rabbitmq` or `redis` that belongs to this root."""
        return cls(RECIPES[name], Home(root))

    def installed(self) -> bool:
        """Whether the package is there, its user included (a half-done installation has the one without the other)."""
        user = self.home.user_for(self.recipe.user)
        return self.recipe.installed() and (user is None or user in {entry.pw_name for entry in pwd.getpwall()})

    @property
    def memory(self) -> Memory:
        """What is remembered of it; empty before its first start."""
        memory = self.home.recall(self.service.name)
        return memory if memory is not None and memory.source == SOURCE else Memory(SOURCE)

    @property
    def server(self) -> Process | None:
        """The server's process while it runs."""
        process = self.memory.processes.get("server")
        return process if process is not None and process.is_alive() else None

    @property
    def pid(self) -> int | None:
        """The server's pid while it runs."""
        server = self.server
        return server.pid if server else None

    @property
    def variables(self) -> dict[str, str]:
        """What to set so that Posthaste uses it; its ports are settled by its first start."""
        return self.service.variables(self.memory.ports, self.home.password())

    def start(self, interrupted: threading.Event | None = None) -> None:
        """Start it unless it runs, and wait until it is ready. ServiceError carries the end of its log."""
        began = time.monotonic()
        interrupted = interrupted or threading.Event()
        if self.server is not None and self._survives(interrupted):
            self._tell("runs already")
            return
        self._launch()
        self._wait(interrupted)
        self._tell(f"ready after {time.monotonic() - began:.1f} s")

    def _survives(self, interrupted: threading.Event) -> bool:
        """Wait for a server that runs; False when it was already dying when looked at."""
        try:
            self._wait(interrupted)
        except ServiceError:
            if self.server is not None:
                raise
            return False
        return True

    def _wait(self, interrupted: threading.Event) -> None:
        try:
            wait_until_ready(self.service, self.memory.ports, ended=lambda: self.server is None, interrupted=interrupted)
        except ServiceError as error:
            raise ServiceError(f"{error}\n{self._end_of_log()}") from error

    def _tell(self, how: str) -> None:
        self.say(f"{how}: {self.recipe.version()}, private, {self._addresses()}")

    def _launch(self) -> None:
        self._end_leftovers()
        self.home.create()
        place = self._place()
        log = self.home.log(self.service.name)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        self.say(f"starting {self.recipe.version()} of the distribution's package, data in {place.folder}")
        self.recipe.prepare(place)
        memory = Memory(SOURCE, dict(place.ports))
        launch = partial(spawn, folder=place.folder, user=place.user, log=log)
        for role, command in self.recipe.commands(place).items():
            process = launch(command.arguments, environment=command.environment)
            memory = replace(memory, processes={**memory.processes, role: process})
            self.home.remember(self.service.name, memory)

    def _place(self) -> Place:
        name = self.service.name
        user = self.home.user_for(self.recipe.user)
        settled = ports.settle(self.recipe.ports, self.memory.ports, ports.shuffled(self.service.candidates))
        return Place(self.home.folder(name, user), user, settled, self.home.key, self.home.password())

    def _end_leftovers(self) -> None:
        for process in self.memory.processes.values():
            process.end(signal.SIGTERM, grace=5)

    def _addresses(self) -> str:
        return ", ".join(f"{name} 127.0.0.1:{self.memory.ports[name]}" for name in self.service.usual_ports)

    def _end_of_log(self, lines: int = 15) -> str:
        log = self.home.log(self.service.name)
        text = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"the end of {log}:", *(f"  | {line}" for line in text[-lines:])])

    def stop(self) -> bool:
        """End it orderly, and after a deadline by force; False when nothing of it ran."""
        running = {role: process for role, process in self.memory.processes.items() if process.is_alive()}
        for role, process in reversed(running.items()):
            number, grace = self.recipe.end if role == "server" else (signal.SIGTERM, 5.0)
            orderly = process.end(number, grace)
            self.say(f"stopped (pid {process.pid}, {role}){'' if orderly else ' by force, as it would not end'}")
        return bool(running)

    def place(self) -> Place:
        """Where it runs now."""
        user = self.home.user_for(self.recipe.user)
        return Place(self.home.folder(self.service.name, user), user, self.memory.ports, self.home.key, self.home.password())

    def signal(self, number: int) -> None:
        """Send a signal to the server's process alone."""
        if self.server:
            self.server.send(number)

    def freeze(self) -> None:
        """Stop the server and all its processes from running (SIGSTOP), connections left open."""
        if self.server:
            self.server.freeze_family()

    def thaw(self) -> None:
        """Let a frozen instance go on."""
        if self.server:
            self.server.send_to_family(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as a crash of the machine would end them."""
        if self.server:
            self.server.kill_family()
