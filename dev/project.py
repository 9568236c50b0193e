"""The services in containers: one Compose project for each root, ports on loopback, data in named volumes."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dev import ports
from dev.catalogue import POSTGRES, Service, wait_until_ready
from dev.docker import FILE, compose, docker, have_image, images
from dev.envfile import Found
from dev.errors import ServiceError
from dev.home import Home, Memory

SOURCE = "docker"
SECONDS_BETWEEN_LOOKS = 2.0
Say = Callable[[Service, str], None]


class Project:
    """The containers of one root."""

    def __init__(self, home: Home, say: Say) -> None:
        self.home = home
        self.say = say
        self.name = f"posthaste-{home.key}"

    def start(self, services: Sequence[Service], interrupted: threading.Event) -> list[Found]:
        """Start those of these services that do not run, all at once, and wait until every one is ready."""
        stopped = [service for service in services if not self.running(service)]
        if stopped:
            self._launch(stopped)
        for service in services:
            self._wait_for(service, interrupted)
            addresses = ", ".join(f"{name} 127.0.0.1:{port}" for name, port in self._ports(service).items())
            self.say(service, f"{'ready' if service in stopped else 'runs already'}: container, {addresses}")
        how = f"a container, {self.name}"
        return [Found(s.title, how, s.variables(self._ports(s), self.home.password())) for s in services]

    def running(self, service: Service) -> bool:
        """Whether its container runs."""
        return bool(self._listed("ps", f"service={service.name}"))

    def stop(self, service: Service) -> bool:
        """Stop a service's container; its data stays. False where it did not run."""
        if not self.running(service):
            return False
        self._compose("stop", service.name)
        self.say(service, "stopped (container)")
        return True

    def execute(self, service: Service, *words: str) -> None:
        """Run a command inside a service's container."""
        self._compose("exec", "-T", service.name, *words)

    def delete(self) -> bool:
        """Delete all containers and volumes; False where there are none."""
        if not (self._listed("ps", all_states=True) or self._listed("volume")):
            return False
        self._compose("down", "--volumes")
        return True

    def _wait_for(self, service: Service, interrupted: threading.Event) -> None:
        ended = _every(SECONDS_BETWEEN_LOOKS, lambda: not self.running(service))
        try:
            wait_until_ready(service, self._ports(service), ended=ended, interrupted=interrupted)
        except ServiceError as error:
            raise ServiceError(f"{service.name}: {error}\n{self._end_of_log(service)}") from error

    def _launch(self, services: Sequence[Service]) -> None:
        if POSTGRES in services and self._listed("volume", "volume=postgres") and not self.home.has_password():
            raise ServiceError(
                f"postgres: the Docker volume {self.name}_postgres holds a database whose password is lost; "
                "to delete it: make clean"
            )
        for service in services:
            have_image(images()[service.name], partial(self.say, service))
        for service in services:
            settled = ports.settle(service.usual_ports, self._ports(service), ports.shuffled(service.candidates))
            self.home.remember(service.name, Memory(SOURCE, settled))
            self.say(service, f"starting a container of {images()[service.name]}")
        published = {name: port for service in services for name, port in self._ports(service).items()}
        self._compose("up", "-d", "--no-build", *(service.name for service in services), published=published)

    def _ports(self, service: Service) -> dict[str, int]:
        memory = self.home.recall(service.name)
        return memory.ports if memory is not None and memory.source == SOURCE else {}

    def _end_of_log(self, service: Service) -> str:
        command = [*compose(), "-p", self.name, "-f", str(FILE), "logs", "--tail=15", service.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

    def _compose(self, *words: str, published: Mapping[str, int] | None = None) -> None:
        settings = {f"SERVICES_{name.upper()}": str(port) for name, port in (published or {}).items()}
        password = self.home.password() if published else ""
        done = subprocess.run(
            [*compose(), "-p", self.name, "-f", str(FILE), *words],
            env={**os.environ, "SERVICES_PASSWORD": password, **settings},
            capture_output=True,
            text=True,
            timeout=300,
            start_new_session=True,  # out of Ctrl-C's reach: what was begun is finished
            check=False,
        )
        if done.returncode != 0:
            raise ServiceError(f"docker compose {words[0]} failed:\n{done.stderr.strip()}")

    def _listed(self, kind: str, label: str = "", *, all_states: bool = False) -> list[str]:
        command = ["volume", "ls", "-q"] if kind == "volume" else ["ps", "-q", *(["-a"] if all_states else [])]
        labels = [f"project={self.name}", *([label] if label else [])]
        return docker(*command, *(f"--filter=label=com.docker.compose.{wanted}" for wanted in labels)).stdout.split()


def _every(seconds: float, look: Callable[[], bool]) -> Callable[[], bool]:
    """A question that is put only now and then, as asking Docker takes longer than asking the service itself."""
    after = time.monotonic() + seconds

    def answer() -> bool:
        nonlocal after
        if time.monotonic() < after:
            return False
        after = time.monotonic() + seconds
        return look()

    return answer
