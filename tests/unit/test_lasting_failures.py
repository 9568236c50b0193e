"""Each loop that continues through failures logs their begin once and their end once."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from api.callers import Keyring
from consumers import maintenance
from consumers.maintenance import DeadWatch, maintain
from consumers.reaper import Reaper
from consumers.relay import Relay
from consumers.sweeper import Sweeper
from consumers.watchdog import Watchdog
from consumers.worker_lock import WorkerLock
from infra.errors import Transient
from infra.postgres.outbox import Due
from infra.postgres.sweep import Observation
from infra.rabbitmq.publisher import NotPublished
from jobs.model import Route
from jobs.wire import Pointer
from service.backlog import BacklogLimit
from tests.support.factories import SANDBOX, new_id
from tests.support.waiting import eventually, until


class Away(Transient):
    pass


@dataclass
class FailingService:
    """Every dependency of every loop: each call fails during the outage, and returns `answer` afterwards."""

    answer: Any = 0
    is_away: bool = True
    connected: asyncio.Event = field(default_factory=asyncio.Event)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: object, **named: object) -> Any:
            if self.is_away:
                raise Away("injected")
            return self.answer

        return call

    def contact_seconds(self) -> float:
        return 60.0

    async def clock(self, timeout: float) -> float:
        return time.monotonic()

    def silent_seconds(self, queue: str) -> float:
        return 0.0


Run = Callable[[FailingService], Coroutine[Any, Any, None]]


def _relay(world: FailingService) -> Coroutine[Any, Any, None]:
    world.answer = []
    return Relay(world, world, world.lead, queues=frozenset(), ready_depth=1, poll_seconds=0.05).run()


def _reaper(world: FailingService) -> Coroutine[Any, Any, None]:
    world.answer = []
    return Reaper(world, world.record_lost, {}, lease_seconds=0.2, grace_seconds=60).run()


def _dead_workers(world: FailingService) -> Coroutine[Any, Any, None]:
    world.answer = []
    return Reaper(world, world.record_lost, {}, lease_seconds=600, grace_seconds=0.2).run()


def _worker_lock(world: FailingService) -> Coroutine[Any, Any, None]:
    world.answer = True
    return WorkerLock(world.held, world.claim, grace_seconds=0.2).run()


def _watchdog(world: FailingService) -> Coroutine[Any, Any, None]:
    return Watchdog(world, {"q": lambda: True}, world.ready, seconds=0.15).run()


def _sweep(world: FailingService) -> Coroutine[Any, Any, None]:
    world.answer = Observation(datetime.now(UTC), is_behind=False, claimed_until=None)
    return Sweeper(world, world.ready, [SANDBOX], lambda: True, after_seconds=0.3).run()  # type: ignore[arg-type]


def _keys(world: FailingService) -> Coroutine[Any, Any, None]:
    return Keyring(world, lambda: None, off=False, may_be_open=True).run()


async def _backlog(world: FailingService) -> None:
    limit = BacklogLimit(world.waiting, high=1_000_000, low=5)
    while True:  # a client submits all the time
        with limit.admission("shop"):
            await limit.refresh()
        await asyncio.sleep(0.05)


LOOPS: dict[str, Run] = {
    "keys": _keys,
    "backlog_count": _backlog,
    "relay": _relay,
    "reaper": _reaper,
    "dead_workers": _dead_workers,
    "worker_lock": _worker_lock,
    "watchdog": _watchdog,
    "sweep": _sweep,
    "dead_queues": lambda world: DeadWatch(world, world.ready, world.dead).run(0.05),  # type: ignore[arg-type]
    "maintenance": lambda world: maintain(world, world, {}),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("subject", LOOPS)
async def test_a_lasting_failure_is_logged_when_it_lasts_and_when_it_ends(
    subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "EVERY_SECONDS", 0.05)
    world = FailingService()
    world.connected.set()
    with structlog.testing.capture_logs() as lines:

        def events() -> list[str]:
            return [line["event"] for line in lines if line["event"] in (f"{subject}.down", f"{subject}.up")]

        running = asyncio.create_task(LOOPS[subject](world))
        try:
            await until(events, lambda names: names == [f"{subject}.down"], 10)
            world.is_away = False
            await until(events, lambda names: names == [f"{subject}.down", f"{subject}.up"], 10)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_queue_that_refuses_for_long_is_named_by_the_relay() -> None:
    pointer = Pointer(new_id(), 1)

    class Refusing:
        connected = asyncio.Event()
        refusing = True

        async def ready_messages(self, queue: str) -> int:
            return 0

        async def publish(self, route: Route, queue: str, messages: Sequence[Due]) -> Sequence[None]:
            if self.refusing:
                raise NotPublished("injected")
            return [None] * len(messages)

    class Outbox:
        async def queues_due(self, timeout: float) -> list[str]:
            return ["q"]

        async def take(self, queue: str, limit: int, timeout: float) -> list[Due]:
            return [Due(pointer, Route.WORK, "q", None)]

        async def delete(self, published: object, timeout: float) -> list[None]:
            return []

        async def release(self, unpublished: object, timeout: float) -> None:
            return

    async def leads() -> bool:
        return True

    broker = Refusing()
    relay = Relay(Outbox(), broker, leads, queues=frozenset({"q"}), ready_depth=1, poll_seconds=0.05)
    with structlog.testing.capture_logs() as lines:

        async def events() -> list[str]:
            await relay.round()
            return [line["event"] for line in lines if line["event"].startswith("relay.queue") and line["log_level"] != "debug"]

        await eventually(events, lambda names: names == ["relay.queue.down"], 10)
        assert "q" in next(line["effect"] for line in lines if line["event"] == "relay.queue.down")
        broker.refusing = False
        await eventually(events, lambda names: names == ["relay.queue.down", "relay.queue.up"], 10)
