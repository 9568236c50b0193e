"""Subscribers get notifications and rereads, and never an older version."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from starlette.requests import Request

from api.callers import Caller
from api.jobs import Conditions, Waiting
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from service.batching import DeadlineExceeded
from service.statuses import Statuses, Subscriptions
from tests.support.factories import new_id
from tests.support.fakes import FakeCache, unheard

ID = new_id()


def _known(version: int, status: Status = Status.PROCESSING) -> KnownStatus:
    return KnownStatus(ID, version, status, Kind.MESSAGE, "default", time.monotonic())


class Ledger:
    """The result of a reread; None if the ledger is unavailable."""

    def __init__(self, version: int | None = 1):
        self.version = version
        self.reads = 0

    async def read(self, id_: UUID) -> KnownStatus | None:
        self.reads += 1
        if self.version is None:
            raise DeadlineExceeded("away")
        return _known(self.version)


async def test_notifications_between_two_waits_are_not_missed() -> None:
    subscriptions = Subscriptions(Ledger().read, unheard, reread_seconds=60)
    async with subscriptions.subscribe(ID) as subscription:
        subscriptions.notify(_known(2))
        news = await subscription.after(1, 5)
    assert news is not None and news.version == 2


async def test_a_watcher_is_woken() -> None:
    subscriptions = Subscriptions(Ledger().read, unheard, reread_seconds=60)
    async with subscriptions.subscribe(ID) as subscription:
        waiting = asyncio.create_task(subscription.after(1, 30))
        await asyncio.sleep(0)
        subscriptions.notify(_known(3))
        news = await asyncio.wait_for(waiting, 5)
    assert news is not None and news.version == 3


async def test_late_notifications_of_older_versions_are_ignored() -> None:
    subscriptions = Subscriptions(Ledger().read, unheard, reread_seconds=60)
    async with subscriptions.subscribe(ID) as subscription:
        for version in (4, 2, 3):
            subscriptions.notify(_known(version))
        news = await subscription.after(1, 5)
        assert news is not None and news.version == 4
        assert await subscription.after(4, 0.0) is None


async def test_changes_without_a_notification_are_read() -> None:
    ledger = Ledger(version=None)
    subscriptions = Subscriptions(ledger.read, unheard, reread_seconds=0.01)
    async with subscriptions.subscribe(ID) as subscription:
        assert await subscription.after(1, 0.05) is None
        ledger.version = 2
        news = await subscription.after(1, 5)
    assert news is not None and news.version == 2 and ledger.reads > 1


async def test_others_are_not_woken_and_nothing_is_kept_of_those_who_left() -> None:
    subscriptions = Subscriptions(Ledger().read, unheard, reread_seconds=60)
    async with subscriptions.subscribe(new_id()) as other, subscriptions.subscribe(ID), subscriptions.subscribe(ID):
        assert sum(map(len, subscriptions._by_job.values())) == 3
        subscriptions.notify(_known(2))
        assert await other.after(0, 0.0) is None
    assert len(subscriptions._by_job) == 0
    subscriptions.notify(_known(3))


@pytest.mark.parametrize("before", [True, False])
async def test_a_process_that_ends_ends_every_subscription(before: bool) -> None:
    subscriptions = Subscriptions(Ledger().read, unheard, reread_seconds=60)
    async with subscriptions.subscribe(ID) as subscription:
        if before:
            subscriptions.close()
        waiting = asyncio.create_task(subscription.after(1))
        await asyncio.sleep(0)
        subscriptions.close()
        assert await asyncio.wait_for(waiting, 5) is None


async def test_a_watch_begins_before_the_first_read_and_ends_with_the_wait() -> None:
    """Otherwise a change between the read and the subscription delays the client by a reread."""
    steps: list[str] = []

    @asynccontextmanager
    async def watch(id_: UUID) -> AsyncIterator[None]:
        steps.append("watch")
        yield
        steps.append("leave")

    class Cache(FakeCache):
        async def read(self, ids: Sequence[UUID], timeout: float = 1) -> list[KnownStatus | None]:
            steps.append("read")
            return [_known(3, Status.SENT) for _ in ids]

    async def no_ledger(ids: Sequence[UUID], timeout: float) -> list[KnownStatus | None]:
        raise AssertionError

    subscriptions = Subscriptions(Ledger().read, watch, reread_seconds=60)
    waiting = Waiting(Statuses(Cache(), no_ledger), subscriptions, 1)
    caller = Caller("default", frozenset())
    request = Request({"type": "http", "headers": [], "path_params": {"id": ID}, "posthaste.caller": caller})
    assert (await waiting.read(request, Kind.MESSAGE, Conditions(wait=5))).status is Status.SENT
    assert steps == ["watch", "read", "leave"]
