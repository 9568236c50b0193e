"""A status comes from the cache, else from the ledger, which refills the cache."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from infra.errors import Transient
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from service.batching import DeadlineExceeded
from service.statuses import Statuses
from tests.support.factories import new_id
from tests.support.fakes import FakeCache
from tests.support.waiting import until


class Away(Transient):
    pass


@dataclass
class Ledger:
    """A ledger with some jobs that counts its reads."""

    known: dict[UUID, KnownStatus] = field(default_factory=dict)
    reads: int = 0
    away: bool = False

    async def statuses(self, ids: Sequence[UUID], timeout: float) -> list[KnownStatus | None]:
        self.reads += 1
        if self.away:
            raise Away
        return [self.known.get(id_) for id_ in ids]


def _bench() -> tuple[Statuses, FakeCache, Ledger, UUID]:
    cache, ledger, id_ = FakeCache(), Ledger(), new_id()
    ledger.known[id_] = KnownStatus(id_, 3, Status.SENT, Kind.MESSAGE, "default", time.monotonic())
    return Statuses(cache, ledger.statuses), cache, ledger, id_


async def test_the_ledger_is_read_once_and_again_after_a_wipe() -> None:
    statuses, cache, ledger, id_ = _bench()
    for reads in (1, 1, 1):
        status = await statuses.read(id_)
        assert status is not None and status.status is Status.SENT
        await statuses.written()
        assert ledger.reads == reads
    cache.values.clear()
    assert await statuses.read(id_) is not None
    assert ledger.reads == 2


async def test_of_the_writes_during_a_write_the_newest_is_next_and_an_outage_drops_only_its_own() -> None:
    batches: list[list[int]] = []

    class Failing(FakeCache):
        async def write(self, entries: Sequence[KnownStatus], timeout: float = 1) -> list[None]:
            batches.append([entry.version for entry in entries])
            await asyncio.sleep(0)
            if len(batches) == 1:
                raise Away
            return await super().write(entries, timeout)

    cache = Failing()
    statuses, id_ = Statuses(cache, Ledger().statuses), new_id()

    def write(version: int) -> None:
        statuses.cache(KnownStatus(id_, version, Status.PROCESSING, Kind.MESSAGE, "default", time.monotonic()))

    write(1)
    await asyncio.sleep(0)
    for version in (3, 2):
        write(version)
    await statuses.written()
    assert batches == [[1], [3]] and cache.values[id_].version == 3
    write(4)  # after a pause
    await statuses.written()
    assert cache.values[id_].version == 4


async def test_a_claim_is_written_after_a_while_unless_the_job_ends_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.statuses.PROCESSING_SECONDS", 0.01)
    batches: list[set[tuple[UUID, int]]] = []

    class Recording(FakeCache):
        async def write(self, entries: Sequence[KnownStatus], timeout: float = 1) -> list[None]:
            batches.append({(entry.id, entry.version) for entry in entries})
            return await super().write(entries, timeout)

    statuses, short, long = Statuses(Recording(), Ledger().statuses), new_id(), new_id()
    for id_ in (short, long):
        statuses.cache_claim(KnownStatus(id_, 2, Status.PROCESSING, Kind.MESSAGE, "default", time.monotonic()))
    statuses.cache(KnownStatus(short, 3, Status.SENT, Kind.MESSAGE, "default", time.monotonic()))
    await until(lambda: batches, lambda seen: len(seen) == 2)
    assert batches == [{(short, 3)}, {(long, 2)}]


async def test_an_older_status_does_not_take_the_place_of_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.statuses.PROCESSING_SECONDS", 0.01)
    statuses, cache, _, _ = _bench()
    id_ = new_id()
    statuses.cache_claim(KnownStatus(id_, 2, Status.PROCESSING, Kind.MESSAGE, "default", time.monotonic()))
    statuses.cache(KnownStatus(id_, 1, Status.QUEUED, Kind.MESSAGE, "default", time.monotonic()))
    await until(lambda: cache.values.get(id_), lambda held: held is not None and held.version == 2)


async def test_too_many_writes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.statuses.MAX_UNWRITTEN", 2)
    statuses, cache, *_ = _bench()
    for _ in range(5):
        id_ = new_id()
        statuses.cache(KnownStatus(id_, 1, Status.QUEUED, Kind.MESSAGE, "default", time.monotonic()))
    await statuses.written()
    assert len(cache.values) == 2


async def test_a_job_that_does_not_exist_is_none_and_not_cached() -> None:
    statuses, cache, _, _ = _bench()
    assert await statuses.read(new_id()) is None
    assert cache.values == {}


async def test_without_the_ledger_the_cache_still_answers_and_the_rest_is_an_error() -> None:
    statuses, _, ledger, id_ = _bench()
    await statuses.read(id_)
    await statuses.written()
    ledger.away = True
    assert await statuses.read(id_) is not None
    with pytest.raises((Away, DeadlineExceeded)):
        await statuses.read(new_id())
