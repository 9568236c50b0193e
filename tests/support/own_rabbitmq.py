"""A private RabbitMQ, so that one test can break the whole broker: from packages, else in a container."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev import Instance
from dev.containers import Project
from dev.home import Home
from dev.process import PLAIN_ENVIRONMENT
from dev.rabbitmq import RABBITMQ, control


@dataclass(frozen=True)
class OwnRabbitMQ:
    """The URLs of a private RabbitMQ, and its `rabbitmqctl`."""

    amqp: str
    management: str
    control: Callable[..., None]


@contextmanager
def own_rabbitmq(root: Path) -> Iterator[OwnRabbitMQ]:
    """Start a RabbitMQ with its data under `root`; delete it afterwards."""
    instance = Instance.of("rabbitmq", root)
    with _private(instance) if instance.installed() else _in_a_container(Home(root)) as started:
        yield started


def controller(instance: Instance) -> Callable[..., None]:
    """`rabbitmqctl` for this instance."""

    def run(*arguments: str) -> None:
        place = instance.place()
        command = control(place, *arguments)
        environment = {**PLAIN_ENVIRONMENT, "HOME": str(place.folder), **command.environment}
        subprocess.run(
            command.arguments, env=environment, user=place.user, cwd="/", check=True, capture_output=True, timeout=60
        )

    return run


@contextmanager
def _private(instance: Instance) -> Iterator[OwnRabbitMQ]:
    try:
        instance.start()
        yield _described(instance.variables, controller(instance))
    finally:
        instance.kill()  # its data is worthless
        instance.stop()
        instance.home.delete()


@contextmanager
def _in_a_container(home: Home) -> Iterator[OwnRabbitMQ]:
    home.create()
    project = Project(home, lambda _service, _line: None)
    try:
        variables = project.start([RABBITMQ], threading.Event())
        yield _described(variables[RABBITMQ], lambda *words: project.execute(RABBITMQ, "rabbitmqctl", *words))
    finally:
        project.delete()
        home.delete()


def _described(variables: dict[str, str], run: Callable[..., None]) -> OwnRabbitMQ:
    named = {name.removeprefix("POSTHASTE_"): value for name, value in variables.items()}
    return OwnRabbitMQ(named["AMQP_URL"], named["MANAGEMENT_URL"], run)
