"""Eager publishing: commit order, urgent first, bounded, and letting go of what the relay has."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from infra import publishing
from infra.publishing import EagerPublisher, Outgoing
from jobs.model import Route
from jobs.wire import Pointer
from tests.making import new_id
from tests.waiting import eventually


class Refused(Exception):
    pass


@dataclass
class Broker:
    """Records what it is given; refuses versions over 100."""

    connected: asyncio.Event = field(default_factory=asyncio.Event)
    published: list[int] = field(default_factory=list)

    async def publish(self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None) -> None:
        if pointer.version > 100:
            raise Refused
        self.published.append(pointer.version)


def _outgoing(n: int, seconds: float = 60, urgent: bool = False) -> Outgoing:
    return Outgoing(Pointer(new_id(), n), Route.WORK, "q", None, time.monotonic() + seconds, urgent)


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[tuple[EagerPublisher, list[int]]]:
    forgotten: list[int] = []

    async def forget(pointer: Pointer) -> None:
        forgotten.append(pointer.version)

    publisher = EagerPublisher(broker, forget, failures=(Refused,))
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher, forgotten
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def waiting_in(publisher: EagerPublisher) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return len(publisher._waiting)

    return count


async def test_commit_order_and_urgent_first() -> None:
    broker = Broker()
    async with running(broker) as (publisher, forgotten):
        for n in (1, 2, 3):
            publisher.offer(_outgoing(n))
        publisher.offer(_outgoing(9, urgent=True))
        broker.connected.set()
        await publisher.finish(5)
    assert broker.published == [9, 1, 2, 3] == forgotten


async def test_only_what_was_confirmed_is_forgotten() -> None:
    broker = Broker()
    broker.connected.set()
    async with running(broker) as (publisher, forgotten):
        for n in (1, 101, 2):
            publisher.offer(_outgoing(n))
        await publisher.finish(5)
    assert forgotten == [1, 2]


async def test_what_cannot_be_published_before_it_is_due_is_let_go() -> None:
    broker = Broker()
    async with running(broker) as (publisher, forgotten):
        publisher.offer(_outgoing(1, seconds=0.01))
        publisher.offer(_outgoing(2, seconds=60))
        await eventually(waiting_in(publisher), lambda count: count == 1, 5)
        broker.connected.set()
        await publisher.finish(5)
    assert broker.published == [2] == forgotten


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "CAPACITY", 2)
    broker = Broker()
    async with running(broker) as (publisher, _):
        for n in range(1, 6):
            publisher.offer(_outgoing(n))
        broker.connected.set()
        await publisher.finish(5)
    assert broker.published == [1, 2]
