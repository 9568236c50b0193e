"""The heartbeat stops without RabbitMQ or Postgres."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from consumers.process import beat, heartbeat
from infra.errors import Transient


class NoAnswer(Transient):
    pass


@dataclass
class Process:
    """The worker of a heartbeat."""

    connected: bool = True
    postgres: bool = True

    async def ask(self, timeout: float) -> None:
        if not self.postgres:
            raise NoAnswer

    async def beat(self, file: Path) -> None:
        await beat(file, lambda: self.connected, self.ask)


@pytest.mark.parametrize(("connected", "postgres"), [(True, True), (False, True), (True, False), (False, False)])
async def test_the_file_is_touched_only_while_rabbitmq_and_postgres_are_there(
    tmp_path: Path, connected: bool, postgres: bool
) -> None:
    file = tmp_path / "heartbeat"
    await Process(connected, postgres).beat(file)
    assert file.exists() == (connected and postgres)


async def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    await Process().beat(tmp_path / "missing" / "heartbeat")


async def test_without_a_file_there_is_no_heartbeat() -> None:
    await heartbeat(None, lambda: True, Process().ask)
