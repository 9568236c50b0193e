"""Watchers are told of what they hear, of what they read, and never of anything older."""

import asyncio
import time
from uuid import UUID

import pytest

from infra.batching import DeadlineExceeded
from infra.watching import Watching
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from tests.making import new_id

ID = new_id()


def _known(version: int, status: Status = Status.PROCESSING) -> KnownStatus:
    return KnownStatus(ID, version, status, Kind.MESSAGE, "default", time.monotonic())


class Ledger:
    """What a reread finds; None: nobody can tell."""

    def __init__(self, version: int | None = 1):
        self.version = version
        self.asked = 0

    async def read(self, id_: UUID) -> KnownStatus | None:
        self.asked += 1
        if self.version is None:
            raise DeadlineExceeded("away")
        return _known(self.version)


async def test_what_is_heard_while_nobody_looks_is_not_missed() -> None:
    watching = Watching(Ledger().read, reread_seconds=60)
    with watching.watch(ID) as watch:
        watching.heard(_known(2))
        news = await watch.after(1, 5)
    assert news is not None and news.version == 2


async def test_a_watcher_is_woken() -> None:
    watching = Watching(Ledger().read, reread_seconds=60)
    with watching.watch(ID) as watch:
        waiting = asyncio.create_task(watch.after(1, 30))
        await asyncio.sleep(0)
        watching.heard(_known(3))
        news = await asyncio.wait_for(waiting, 5)
    assert news is not None and news.version == 3


async def test_what_comes_late_is_no_news() -> None:
    watching = Watching(Ledger().read, reread_seconds=60)
    with watching.watch(ID) as watch:
        for version in (4, 2, 3):
            watching.heard(_known(version))
        news = await watch.after(1, 5)
        assert news is not None and news.version == 4
        assert await watch.after(4, 0.0) is None


async def test_what_nobody_told_of_is_read() -> None:
    ledger = Ledger(version=None)
    watching = Watching(ledger.read, reread_seconds=0.01)
    with watching.watch(ID) as watch:
        assert await watch.after(1, 0.05) is None
        ledger.version = 2
        news = await watch.after(1, 5)
    assert news is not None and news.version == 2 and ledger.asked > 1


async def test_others_are_not_woken_and_nothing_is_kept_of_those_who_left() -> None:
    watching = Watching(Ledger().read, reread_seconds=60)
    with watching.watch(new_id()) as other, watching.watch(ID), watching.watch(ID):
        assert len(watching) == 3
        watching.heard(_known(2))
        assert await other.after(0, 0.0) is None
    assert len(watching) == 0
    watching.heard(_known(3))


@pytest.mark.parametrize("before", [True, False])
async def test_a_process_that_ends_sends_everybody_home(before: bool) -> None:
    watching = Watching(Ledger().read, reread_seconds=60)
    with watching.watch(ID) as watch:
        if before:
            watching.close()
        waiting = asyncio.create_task(watch.after(1))
        await asyncio.sleep(0)
        watching.close()
        assert await asyncio.wait_for(waiting, 5) is None
