"""Only the claim that completed a report determines its totals."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from uuid import UUID, uuid4

from infra.postgres import totals as room
from infra.postgres.results import Results
from infra.postgres.totals import Batch, Totals
from jobs.decision import decide
from jobs.model import Claimed
from jobs.outcome import RELEASED_AT_SHUTDOWN
from jobs.retry import RetryPolicy
from tests.support.factories import ACCEPTED, claim_request, report
from tests.support.ledger import Store


def in_batches(totals: Mapping[int, int]) -> Iterator[Batch]:
    rows = iter(totals.items())
    while batch := dict(islice(rows, room.BATCH)):
        yield list(batch), list(batch.values())


async def _claimed(store: Store, id_: UUID | None = None, version: int = 1) -> Claimed:
    if id_ is None:
        new = report()
        await store.ledger.accept([new], 5)
        id_ = new.id
    (job,) = await store.ledger.claim([claim_request(id_, version)], 5)
    assert job is not None
    return job


async def _complete(store: Store, job: Claimed) -> None:
    step = decide(job, ACCEPTED, RetryPolicy(), ran_seconds=1, jitter=0)
    assert await store.ledger.apply([step], 5) != [None]


async def _page(store: Store, id_: UUID, after: int, limit: int) -> list[tuple[int, int]] | None:
    """Totals by user id after a user; None: there is no result."""
    results = Results(store.pool)
    result = await results.find(id_, 5)
    return None if result is None else [(row.user_id, row.words) for row in await results.page(result, after, limit, 5)]


async def test_totals_are_seen_once_the_job_is_completed(store: Store) -> None:
    totals, job = Totals(store.pool), await _claimed(store)
    assert await totals.store(job, in_batches({3: 1, 1: 2, -7: 2**40}), 5)
    assert await _page(store, job.id, -100, 10) is None
    await _complete(store, job)
    assert await _page(store, job.id, -100, 10) == [(-7, 2**40), (1, 2), (3, 1)]
    assert await _page(store, job.id, 1, 10) == [(3, 1)]
    assert await _page(store, job.id, -100, 2) == [(-7, 2**40), (1, 2)]


async def test_more_than_a_batch_is_stored_whole_and_storing_again_changes_nothing(store: Store) -> None:
    totals, job = Totals(store.pool), await _claimed(store)
    counted = {user: user for user in range(room.BATCH * 2 + 1)}
    assert await totals.store(job, in_batches(counted), 10)
    assert await totals.store(job, in_batches(counted), 10)
    await _complete(store, job)
    assert dict(await _page(store, job.id, -1, len(counted) + 1) or ()) == counted


async def test_a_worker_that_lost_the_job_stores_nothing(store: Store) -> None:
    totals, job = Totals(store.pool), await _claimed(store)
    for foreign in (replace(job, token=uuid4()), replace(job, version=1), replace(job, id=uuid4())):
        assert not await totals.store(foreign, in_batches({1: 1}), 5)
    await _complete(store, job)
    assert not await totals.store(job, in_batches({1: 1}), 5)
    assert store.rows("SELECT count(*) FROM report_totals") == [(0,)]


async def test_totals_of_an_earlier_claim_are_never_read_and_are_deleted(store: Store) -> None:
    totals, first = Totals(store.pool), await _claimed(store)
    assert await totals.store(first, in_batches({1: 1, 2: 2}), 5)
    release = decide(first, RELEASED_AT_SHUTDOWN, RetryPolicy(), ran_seconds=1, jitter=0)
    await store.ledger.apply([release], 5)
    second = await _claimed(store, first.id, 3)
    assert await totals.store(second, in_batches({1: 5}), 5)
    assert not await totals.store(first, in_batches({9: 9}), 5)
    await _complete(store, second)
    assert await _page(store, first.id, -1, 10) == [(1, 5)]
    assert store.rows("SELECT user_id FROM report_totals") == [(1,)]
