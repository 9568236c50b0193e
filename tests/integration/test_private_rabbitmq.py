"""A private RabbitMQ whose data became unusable starts again."""

import asyncio
import os
import time
from pathlib import Path

import aio_pika
import pytest

from dev import Instance, ServiceError
from dev.bringup import Bringup
from dev.home import Home
from dev.rabbitmq import DISCARD, RABBITMQ
from dev.source import Source
from tests.support.services import Services

pytestmark = pytest.mark.skipif(
    not RABBITMQ.installed() and "CI" not in os.environ,
    reason="RabbitMQ runs in a container here; there is no private instance",
)


def test_a_node_that_was_killed_while_it_made_its_tables_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[str] = []
    instance = Instance.of("rabbitmq", tmp_path)
    instance.report = reports.append
    with monkeypatch.context() as patched:
        patched.setattr(RABBITMQ, "wait_until_ready", lambda *_, **__: _wait_for_tables(instance))
        with pytest.raises(ServiceError, match="tables exist in part"):
            instance.start()
    instance.kill()
    try:
        instance.start()
        assert any("its first boot was interrupted" in line for line in reports)
        assert not (instance.place().folder / DISCARD).exists()
        reports.clear()
        instance.kill()
        instance.start()
        assert not any("its first boot was interrupted" in line for line in reports)
    finally:
        instance.kill()
        instance.stop()
        instance.home.delete()


async def test_a_node_whose_folder_was_moved_has_usable_queues(tmp_path: Path, services: Services) -> None:
    elsewhere = {"POSTHASTE_DATABASE_URL": services.database, "POSTHASTE_REDIS_URL": services.redis}
    reports: list[str] = []

    def bring_up(root: Path) -> Instance:
        home = Home(root, apart=False)
        bringup = Bringup(home, elsewhere, lambda _service, line: reports.append(line))
        bringup.run(Source.PACKAGES)
        return bringup.instance(RABBITMQ)

    instance = await asyncio.to_thread(bring_up, tmp_path / "root")
    server = instance.server
    try:
        await _use_a_queue(instance)
        (tmp_path / "root").rename(tmp_path / "moved")
        reports.clear()
        instance = await asyncio.to_thread(bring_up, tmp_path / "moved")
        assert any("its folder was moved" in line for line in reports)
        assert server and not server.is_alive()
        await _use_a_queue(instance)
        assert not (tmp_path / "root").exists()
    finally:
        instance.kill()
        instance.stop()


async def _use_a_queue(instance: Instance) -> None:
    async with await aio_pika.connect(instance.variables[RABBITMQ.variable]) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("used", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b""), "used")
        assert await queue.get(no_ack=True)


def _wait_for_tables(instance: Instance) -> None:
    """Return as soon as the node's data exists in part. RabbitMQ 3 never boots again if it is killed now."""
    node, deadline = instance.place().folder / "mnesia/node", time.monotonic() + 60
    last_file = "schema.DAT" if RABBITMQ.version().startswith("RabbitMQ 3.") else "*"
    while not list(node.glob(last_file)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    raise ServiceError("tables exist in part")
