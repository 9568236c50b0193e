"""Tidying a dead queue deletes stale copies and leaves every other message unchanged."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aio_pika
import pytest

from infra.rabbitmq import dead_queue
from infra.rabbitmq.dead_queue import DeadQueues
from infra.rabbitmq.inspection import inspect
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import Topology, describe
from jobs.model import DEAD_QUEUES, Kind, Route
from jobs.wire import Pointer
from tests.support.factories import Outbound, new_id
from tests.support.services import PROVIDERS, Services
from tests.support.waiting import eventually

DEAD = DEAD_QUEUES[Kind.MESSAGE]


def copies(count: int, version: int = 3) -> list[Pointer]:
    return [Pointer(new_id(), version) for _ in range(count)]


async def older(found: Sequence[Pointer]) -> set[Pointer]:
    """Copies of version 1 are stale."""
    return {pointer for pointer in found if pointer.version == 1}


@asynccontextmanager
async def publishing(services: Services, topology: Topology) -> AsyncIterator[Publisher]:
    publisher = Publisher(services.amqp, topology, name="test")
    running = asyncio.create_task(publisher.run())
    await publisher.connected.wait()
    try:
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _filled(services: Services, topology: Topology, pointers: Sequence[Pointer]) -> None:
    """Check that the dead queue holds these messages in this order."""
    async with publishing(services, topology) as publisher:
        for start in range(0, len(pointers), 200):
            page = pointers[start : start + 200]
            assert not any(await publisher.publish(Route.DEAD, DEAD, [Outbound(pointer) for pointer in page]))
    await _ready(services, topology, len(pointers))


async def _ready(services: Services, topology: Topology, count: int) -> None:
    async def ready() -> int:
        return next(state.ready for state in await inspect(services.amqp, topology) if state.logical == DEAD)

    await eventually(ready, lambda ready_count: ready_count == count)


async def test_stale_copies_behind_thousands_of_live_ones_are_removed(services: Services, broker_namespace: str) -> None:
    topology = describe(broker_namespace, PROVIDERS)
    await _filled(services, topology, [*copies(2500), *copies(5, version=1)])
    looked = await DeadQueues(services.amqp, topology).tidy(DEAD, older)
    assert (looked.acknowledged, looked.kept) == (5, 2500)
    await _ready(services, topology, 2500)


async def test_more_copies_than_a_channel_may_hold_are_read(
    services: Services, broker_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_queue, "_PREFETCH", 40)
    monkeypatch.setattr(dead_queue, "_PAGE", 20)
    topology = describe(broker_namespace, PROVIDERS)
    mixed = [pointer for _ in range(10) for pointer in (*copies(9), *copies(1, version=1))]
    await _filled(services, topology, mixed)
    looked = await DeadQueues(services.amqp, topology).tidy(DEAD, older)
    assert (looked.acknowledged, looked.kept) == (10, 90)
    await _ready(services, topology, 90)


async def test_of_two_copies_of_one_version_one_stays(services: Services, broker_namespace: str) -> None:
    topology = describe(broker_namespace, PROVIDERS)
    live = copies(3)
    await _filled(services, topology, [*live, *live, live[0]])
    queues = DeadQueues(services.amqp, topology)
    looked = await queues.tidy(DEAD, older)
    assert (looked.acknowledged, looked.kept) == (4, 3)
    await _ready(services, topology, 3)  # the broker returns what the last look kept
    looked = await queues.tidy(DEAD, older)
    assert (looked.acknowledged, looked.kept) == (0, 3)


async def test_undecodable_messages_stay_unless_they_are_to_be_dropped(services: Services, broker_namespace: str) -> None:
    topology = describe(broker_namespace, PROVIDERS)
    await _filled(services, topology, copies(1))
    async with await aio_pika.connect(services.amqp) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.exchange(Route.DEAD), ensure=False)
        await exchange.publish(aio_pika.Message(b"nonsense"), routing_key=DEAD)
    queues = DeadQueues(services.amqp, topology)
    looked = await queues.tidy(DEAD, older)
    assert (looked.acknowledged, looked.kept, [each.body for each in looked.undecodable]) == (0, 2, [b"nonsense"])
    looked = await queues.tidy(DEAD, older, drop_undecodable=True)
    assert (looked.acknowledged, looked.kept) == (1, 1)
