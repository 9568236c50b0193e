"""The services in containers: those of the root's docker-compose.yml, as one Compose project for each root."""

import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from dev import ports
from dev.errors import ServiceError
from dev.home import Home, Record
from dev.service import Service
from dev.source import Source

OVERRIDE = Path(__file__).with_name("docker-compose.override.yml")
FILE = OVERRIDE.parents[1] / "docker-compose.yml"
PASSWORDS = [  # docker-compose.yml requires them in every command; with the override, only POSTGRES_ADMIN_PASSWORD has a user
    *("POSTGRES_PASSWORD", "POSTGRES_OWNER_PASSWORD", "POSTGRES_ADMIN_PASSWORD"),
    *("RABBITMQ_PASSWORD", "RABBITMQ_ADMIN_PASSWORD", "REDIS_PASSWORD"),
]
ENGINE_SECONDS = 5
PULL_SECONDS = 900
Report = Callable[[Service, str], None]


def docker(*words: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run one docker command, whatever its outcome."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=seconds, check=False)


@cache
def compose() -> list[str]:
    """The command for Compose: the plugin, else version 1; empty where neither is installed."""
    if docker("compose", "version").returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


@cache
def trouble() -> str | None:
    """Why Docker cannot be used, or None where an engine answers."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if os.environ.get("DOCKER_HOST", "unix:").partition(":")[0] not in ("unix", "npipe"):
        return "its engine is on another machine (DOCKER_HOST), and so would be the ports it publishes"
    try:
        engine = docker("info", "--format", "{{.ServerVersion}}", seconds=ENGINE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no engine answered within {ENGINE_SECONDS} s"
    if engine.returncode != 0 or not engine.stdout.strip():
        return "no engine answers"
    return None if compose() else "neither `docker compose` nor `docker-compose` is installed"


def images() -> dict[str, str]:
    """The image of each service, as docker-compose.yml names it."""
    return dict(re.findall(r"^  (\w+):\n    image: (\S+)", FILE.read_text(), flags=re.MULTILINE))


class Project:
    """The containers of one root."""

    def __init__(self, home: Home, report: Report) -> None:
        self.home = home
        self.report = report
        self.name = f"posthaste-{home.key}"

    def start(self, services: Sequence[Service], interrupted: threading.Event) -> dict[Service, dict[str, str]]:
        """Start those of these services that do not run, and wait until every one is ready; the variables of each."""
        stopped = [service for service in services if not self.running(service)]
        if stopped:
            self._launch(stopped)
        variables = {each: each.variables(self._ports(each), self.home.password()) for each in services}
        for service in services:
            self._wait(service, variables[service], interrupted)
            addresses = ", ".join(f"{name} 127.0.0.1:{port}" for name, port in self._ports(service).items())
            self.report(service, f"{'ready' if service in stopped else 'runs already'}: container, {addresses}")
        return variables

    def running(self, service: Service) -> bool:
        """Whether its container runs."""
        return bool(self._listed("ps", f"service={service.name}"))

    def stop(self, service: Service) -> bool:
        """Stop a service's container; its data stays. False where it did not run."""
        if not self.running(service):
            return False
        self._compose("stop", service.name)
        self.report(service, "stopped (container)")
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

    def _wait(self, service: Service, variables: Mapping[str, str], interrupted: threading.Event) -> None:
        try:
            service.wait_until_ready(variables, ended=lambda: not self.running(service), interrupted=interrupted)
        except ServiceError as error:
            log = self._compose("logs", "--tail=15", service.name)
            raise ServiceError(f"{service.name}: {error}\n{log}") from error

    def _launch(self, services: Sequence[Service]) -> None:
        if any(each.name == "postgres" for each in services) and not self.home.has_password():
            self._refuse_lost_password()
        for service in services:
            self._pull(service)
        published: dict[str, int] = {}
        for service in services:
            candidates = iter(random.sample(service.candidates, len(service.candidates)))
            settled = ports.settle(service.container_ports, self._ports(service), candidates)
            self.home.save(service.name, Record(Source.DOCKER, settled))
            published.update(settled)
            self.report(service, f"starting a container of {images()[service.name]}")
        names = [service.name for service in services]
        self._compose("up", "-d", "--no-build", *names, published=published, password=self.home.password())

    def _refuse_lost_password(self) -> None:
        if self._listed("volume", "volume=postgres"):
            raise ServiceError(
                f"postgres: the Docker volume {self.name}_postgres holds a database whose password is lost; "
                "to delete it: make clean"
            )

    def _pull(self, service: Service) -> None:
        image = images()[service.name]
        if docker("image", "inspect", image).returncode == 0:
            return
        self.report(service, f"pulling the image {image}")
        try:
            self._compose("pull", service.name, seconds=PULL_SECONDS)
        except ServiceError as error:
            raise ServiceError(
                f"Docker's engine answers, but the image {image} is missing: {error}\n"
                "Without images, from the distribution's packages: make services USING=packages"
            ) from error

    def _ports(self, service: Service) -> dict[str, int]:
        record = self.home.load(service.name)
        return record.ports if record is not None and record.source == Source.DOCKER else {}

    def _compose(
        self, *words: str, published: Mapping[str, int] | None = None, password: str = "", seconds: float = 300
    ) -> str:
        settings = {f"{name.upper()}_PORT": str(port) for name, port in (published or {}).items()}
        settings |= dict.fromkeys(PASSWORDS, password or "unused")
        try:
            done = subprocess.run(
                [*compose(), "-p", self.name, "-f", str(FILE), "-f", str(OVERRIDE), *words],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                timeout=seconds,
                start_new_session=True,  # a Ctrl-C in the terminal does not reach it
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServiceError(f"docker compose {words[0]} took more than {seconds} s") from error
        if done.returncode != 0:
            raise ServiceError(f"docker compose {words[0]} failed:\n{done.stderr.strip()}")
        return done.stdout

    def _listed(self, kind: str, label: str = "", *, all_states: bool = False) -> list[str]:
        command = ["volume", "ls", "-q"] if kind == "volume" else ["ps", "-q", *(["-a"] if all_states else [])]
        labels = [f"project={self.name}", *([label] if label else [])]
        return docker(*command, *(f"--filter=label=com.docker.compose.{each}" for each in labels)).stdout.split()
