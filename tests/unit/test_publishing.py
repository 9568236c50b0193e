"""Eager publishing: commit order, batches per queue, bounds, and the handover to the relay."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from infra.errors import Transient
from jobs.model import Route
from jobs.wire import Pointer
from service import publishing
from service.publishing import EagerPublisher, Outgoing, outbox_deletes
from tests.support.factories import new_id
from tests.support.waiting import eventually

GRACE_SECONDS = 60.0


class Refused(Transient):
    pass


@dataclass
class Broker:
    """Records messages; refuses versions over 100, and never confirms messages to the queue `stuck`."""

    connected: asyncio.Event = field(default_factory=asyncio.Event)
    published: list[int] = field(default_factory=list)

    async def publish(self, route: Route, queue: str, messages: Sequence[Outgoing]) -> list[Transient | None]:
        versions = [message.pointer.version for message in messages]
        self.published += [version for version in versions if version <= 100]
        if queue == "stuck":
            await asyncio.Event().wait()
        return [Refused() if version > 100 else None for version in versions]


def _outgoing(n: int, seconds: float = GRACE_SECONDS, queue: str = "q") -> Outgoing:
    return Outgoing(Pointer(new_id(), n), Route.WORK, queue, time.monotonic() + seconds - GRACE_SECONDS)


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[tuple[EagerPublisher, list[int]]]:
    forgotten: list[int] = []

    async def delete(pointers: Sequence[Pointer], timeout: float) -> None:
        forgotten.extend(pointer.version for pointer in pointers)

    publisher = EagerPublisher(broker, outbox_deletes(delete), grace_seconds=GRACE_SECONDS)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher, forgotten
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_messages_are_published_in_commit_order() -> None:
    broker = Broker()
    async with running(broker) as (publisher, forgotten):
        for n in (1, 2, 3):
            publisher.offer(_outgoing(n))
        broker.connected.set()
        await publisher.finish(5)
    assert broker.published == [1, 2, 3] == forgotten


async def test_a_queue_that_never_confirms_holds_one_batch_alone() -> None:
    broker = Broker()
    broker.connected.set()
    async with running(broker) as (publisher, forgotten):
        for _ in range(1000):
            publisher.offer(_outgoing(1, queue="stuck"))
        for n in range(2, 100):
            publisher.offer(_outgoing(n))

        async def count() -> int:
            return len(forgotten)

        await eventually(count, lambda deleted_count: deleted_count == 98, 5)
    assert forgotten == list(range(2, 100))
    assert broker.published.count(1) == publishing.BATCH


async def test_only_what_was_confirmed_is_forgotten() -> None:
    broker = Broker()
    broker.connected.set()
    async with running(broker) as (publisher, forgotten):
        for n in (1, 101, 2):
            publisher.offer(_outgoing(n))
        await publisher.finish(5)
    assert forgotten == [1, 2]


async def test_messages_that_cannot_be_published_before_they_are_due_are_left_to_the_relay() -> None:
    broker = Broker()
    async with running(broker) as (publisher, forgotten):
        publisher.offer(_outgoing(1, seconds=0))
        publisher.offer(_outgoing(2, seconds=60))
        broker.connected.set()
        await publisher.finish(5)
    assert broker.published == [2] == forgotten


async def test_messages_that_the_relay_took_over_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "CAPACITY", 2)
    broker = Broker()
    async with running(broker) as (publisher, _):
        for n, seconds in ((1, 0), (2, 0), (3, 60), (4, 60), (5, 60)):
            publisher.offer(_outgoing(n, seconds))
        broker.connected.set()
        await publisher.finish(5)
    assert broker.published == [3, 4]


async def test_waiting_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "CAPACITY", 2)
    broker = Broker()
    async with running(broker) as (publisher, _):
        for n in range(1, 6):
            publisher.offer(_outgoing(n))
        broker.connected.set()
        await publisher.finish(5)
    assert broker.published == [1, 2]
