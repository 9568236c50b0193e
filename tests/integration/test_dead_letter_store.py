"""Dead letters: each filter selects exactly its letters, and a requeued one starts anew."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

import pytest

from infra.postgres.dead_letters import BEFORE_ALL, DeadLetterStore, Filter
from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status
from jobs.model import REPORTS, Claimed, Delivery, Kind, NewJob, Progress, WorkQueue, message_queue
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from tests.support.factories import claim_request, message, report
from tests.support.ledger import Store

REJECTED = Outcome(Verdict.REJECTED, "http_400", 400)
RETRYABLE = Outcome(Verdict.RETRYABLE, "http_500", 500)
UNKNOWN = Outcome(Verdict.UNKNOWN, "timeout")
URL = "https://receiver.example"


async def _claimed(store: Store, new: NewJob, version: int = 1, lease: float = 60.0) -> Claimed:
    await store.ledger.accept([new], 5)
    (job,) = await store.ledger.claim([claim_request(new.id, version, lease)], 5)
    assert job is not None
    return job


async def _apply(store: Store, job: Claimed, outcome: Outcome) -> int:
    """The version after the outcome."""
    step = decide(job, outcome, RetryPolicy(), ran_seconds=0.1, jitter=0.0)
    (applied,) = await store.ledger.apply([step], 5)
    assert applied is not None
    return applied.version


async def _dead(store: Store, new: NewJob | None = None, outcome: Outcome = REJECTED) -> UUID:
    new = new or message()
    await _apply(store, await _claimed(store, new), outcome)
    return new.id


async def _worker_lost(store: Store) -> UUID:
    """A letter with one failed attempt and two lost leases."""
    new = message()
    version = await _apply(store, await _claimed(store, new), RETRYABLE)
    for _ in range(2):
        job = await _claimed(store, new, version, lease=0.0)
        if job.lost_leases:
            assert await store.ledger.renew(job, 0.0, Progress(), 5)
        (lost,) = await store.ledger.expired_leases(10, 5)
        (step,) = await store.ledger.apply([decide_lost(lost, RetryPolicy(), limit=2, jitter=0.0)], 5)
        assert step is not None
        version = step.version
    return new.id


def _store(store: Store) -> DeadLetterStore:
    return DeadLetterStore(store.pool)


async def _page(store: Store, filter_: Filter | None = None, after: UUID = BEFORE_ALL, limit: int = 100) -> list[UUID]:
    return [letter.id for letter in await _store(store).page(filter_ or Filter(), after, limit, 5)]


async def _requeue(store: Store, *ids: UUID, queue: WorkQueue | None = None) -> set[UUID]:
    letters = await _store(store).page(Filter(ids=ids), BEFORE_ALL, 100, 5)
    return await _store(store).requeue([(letter, queue or letter.queue) for letter in letters], 5)


async def test_a_requeued_letter_of_a_lost_worker_starts_with_no_attempts_and_no_lost_leases(store: Store) -> None:
    id_ = await _worker_lost(store)
    dead = "SELECT status, reason, attempts, tries, lost_leases, revision, finished_at IS NULL FROM jobs"
    assert store.rows(dead) == [("failed", "worker_lost", 1, 3, 2, 0, False)]
    assert await _requeue(store, id_) == {id_}
    assert store.rows(dead) == [("queued", None, 0, 0, 0, 1, True)]
    ((version,),) = store.rows("SELECT version FROM jobs")
    again = await _claimed(store, replace(message(), id=id_), int(str(version)), lease=0.0)
    assert (again.attempts, again.tries, again.lost_leases, again.revision) == (0, 0, 0, 1)
    (lost,) = await store.ledger.expired_leases(10, 5)
    assert (lost.started, lost.lost_leases) == (True, 0)


async def test_a_letter_of_a_lost_worker_moved_by_hand_starts_like_a_requeued_one(store: Store) -> None:
    id_ = await _worker_lost(store)
    ((version,),) = store.rows("SELECT version FROM jobs")
    again = await _claimed(store, replace(message(), id=id_), int(str(version)), lease=0.0)
    assert (again.attempts, again.tries, again.lost_leases, again.revision) == (0, 0, 0, 1)
    assert 0 <= again.age_seconds < 5
    (lost,) = await store.ledger.expired_leases(10, 5)
    assert lost.started


async def test_a_requeued_letter_has_the_full_deadline_again(store: Store) -> None:
    moved, requeued = await _dead(store), await _dead(store)
    store.rows("UPDATE jobs SET queued_at = queued_at - interval '2 h', due_at = due_at - interval '2 h'")
    assert [letter.age_seconds > 7000 for letter in await _store(store).page(Filter(), BEFORE_ALL, 9, 5)] == [True, True]
    await _requeue(store, requeued)
    for id_, version in ((moved, 3), (requeued, 4)):
        assert (await _claimed(store, replace(message(), id=id_), version)).age_seconds < 60
    assert store.rows(f"SELECT due_at > now() - interval '1 min' FROM jobs WHERE id = '{requeued}'") == [(True,)]


async def test_the_provider_sees_a_new_key_after_a_failure_and_the_same_after_an_unknown_outcome(store: Store) -> None:
    failed = await _dead(store)
    unknown = await _dead(store, message(delivery=Delivery.AT_MOST_ONCE), UNKNOWN)
    await _requeue(store, failed, unknown)
    jobs = [await _claimed(store, replace(message(), id=id_), 4) for id_ in (failed, unknown)]
    assert [job.idempotency_key for job in jobs] == [f"{failed}-1", f"{unknown}"]
    version = await _apply(store, jobs[1], REJECTED)
    assert (await _claimed(store, replace(message(), id=unknown), version)).idempotency_key == f"{unknown}-2"


async def test_a_letter_is_requeued_for_the_provider_that_the_operator_names(store: Store) -> None:
    id_, other = await _dead(store), await _dead(store)
    assert await _requeue(store, id_, queue=message_queue("other")) == {id_}
    assert store.rows(f"SELECT provider, status FROM jobs WHERE id = '{id_}'") == [("other", "queued")]
    rows = store.rows("SELECT CAST(job_id AS text), version, route, queue FROM outbox WHERE version > 1 ORDER BY queue")
    assert rows == [(str(other), 3, "dead", "messages.dead"), (str(id_), 4, "work", "messages.other.normal")]
    again = await _claimed(store, replace(message(), id=id_), 4)
    assert again.queue == message_queue("other")


async def test_a_letter_that_moved_on_is_neither_requeued_nor_discarded(store: Store) -> None:
    await _dead(store)
    (stale,) = await _store(store).page(Filter(), BEFORE_ALL, 10, 5)
    await _requeue(store, stale.id)
    assert await _store(store).requeue([(stale, stale.queue)], 5) == set()
    assert await _store(store).discard([stale], 5) == set()
    now = replace(stale, version=stale.version + 1)
    assert await _store(store).requeue([(now, now.queue)], 5) == set(), "a queued job is no dead letter"
    assert await _store(store).discard([now], 5) == set()
    assert store.rows("SELECT status, version, revision FROM jobs") == [("queued", 4, 1)]


async def test_a_discarded_letter_ends_with_one_callback_and_without_its_unpublished_copy(store: Store) -> None:
    discarded, other = await _dead(store, replace(message(), callback_url=URL)), await _dead(store)
    store.rows("UPDATE jobs SET finished_at = finished_at - interval '1 day'")
    (letter,) = await _store(store).page(Filter(ids=(discarded,)), BEFORE_ALL, 10, 5)
    assert await _store(store).discard([letter], 5) == {discarded}
    ended = f"SELECT status, version, finished_at > now() - interval '1 min' FROM jobs WHERE id = '{discarded}'"
    assert store.rows(ended) == [("discarded", 4, True)]
    copies = store.rows("SELECT CAST(job_id AS text) FROM outbox WHERE route = 'dead'")
    assert copies == [(str(other),)]
    statement = "SELECT CAST(body AS json) ->> 'type' FROM jobs WHERE kind = 'callback' ORDER BY parent_version"
    assert store.rows(statement) == [("message.failed",), ("message.discarded",)]


async def _various(store: Store) -> dict[str, UUID]:
    """Letters that differ in at least one field each, and a job that is no dead letter."""
    await store.ledger.accept([message()], 5)
    return {
        "plain": await _dead(store),
        "theirs": await _dead(store, replace(message(), client_id="other")),
        "elsewhere": await _dead(store, message("+2")),
        "provider": await _dead(store, message(provider="other")),
        "named": await _dead(store, replace(message(), reference="r", tags=("t", "u"))),
        "unknown": await _dead(store, message(delivery=Delivery.AT_MOST_ONCE), UNKNOWN),
        "report": await _dead(store, report(), Outcome(Verdict.REJECTED, "bad_data")),
    }


async def test_each_field_of_a_filter_selects_by_itself_and_together_with_others(store: Store) -> None:
    ids = await _various(store)
    cases: list[tuple[Filter, set[str]]] = [
        (Filter(), set(ids)),
        (Filter(client_id="other"), {"theirs"}),
        (Filter(client_id="other", ids=tuple(ids.values())), {"theirs"}),
        (Filter(destination="+2"), {"elsewhere"}),
        (Filter(client_id="other", destination="+2"), set()),
        (Filter(provider="other"), {"provider"}),
        (Filter(reference="r"), {"named"}),
        (Filter(tag="u"), {"named"}),
        (Filter(tag="r"), set()),
        (Filter(status=Status.UNKNOWN), {"unknown"}),
        (Filter(reason="timeout"), {"unknown"}),
        (Filter(kind=Kind.REPORT), {"report"}),
        (Filter(ids=(ids["plain"], ids["named"])), {"plain", "named"}),
        (Filter(ids=(ids["plain"], ids["named"]), tag="t"), {"named"}),
    ]
    for filter_, names in cases:
        assert await _page(store, filter_) == sorted(ids[name] for name in names), filter_
        assert sum(group.count for group in await _store(store).groups(filter_, 5)) == len(names), filter_
    assert [await _store(store).count(kind, 5) for kind in (Kind.MESSAGE, Kind.REPORT, Kind.CALLBACK)] == [6, 1, 0]


async def test_letters_are_selected_by_when_they_failed(store: Store) -> None:
    first, second = await _dead(store), await _dead(store)
    ((between,),) = store.rows(f"SELECT finished_at FROM jobs WHERE id = '{second}'")
    assert isinstance(between, datetime)
    assert await _page(store, Filter(failed_before=between)) == [first]
    assert await _page(store, Filter(failed_after=between)) == [second]
    assert await _page(store, Filter(failed_after=between, failed_before=between)) == []


async def test_pages_follow_each_other_by_id(store: Store) -> None:
    ids = sorted([await _dead(store) for _ in range(3)])
    assert await _page(store, limit=2) == ids[:2]
    assert await _page(store, after=ids[1], limit=2) == ids[2:]


async def test_a_letter_shows_the_last_attempt_of_the_last_revision(store: Store) -> None:
    new, policy = message(), RetryPolicy(attempts=2)
    for version, code in ((1, 500), (3, 502)):
        job = await _claimed(store, new, version)
        outcome = Outcome(Verdict.RETRYABLE, f"http_{code}", code)
        await store.ledger.apply([decide(job, outcome, policy, ran_seconds=0.1, jitter=0.0)], 5)
    (letter,) = await _store(store).page(Filter(), BEFORE_ALL, 10, 5)
    assert (letter.reason, letter.last_reason, letter.provider_code, letter.attempts) == (
        "attempts_exhausted",
        "http_502",
        502,
        2,
    )
    await _requeue(store, new.id)
    await _apply(store, await _claimed(store, new, 6), REJECTED)
    (letter,) = await _store(store).page(Filter(), BEFORE_ALL, 10, 5)
    assert (letter.reason, letter.last_reason, letter.provider_code, letter.attempts) == ("http_400", "http_400", 400, 1)


async def test_alike_letters_are_one_group_with_the_oldest_and_the_newest(store: Store) -> None:
    ids = [await _dead(store) for _ in range(3)]
    other = await _dead(store, message(delivery=Delivery.AT_MOST_ONCE), UNKNOWN)
    store.rows(f"UPDATE jobs SET finished_at = finished_at - interval '1 h' WHERE id = '{ids[1]}'")
    ended = {str(id_): at for id_, at in store.rows("SELECT id, finished_at FROM jobs")}
    most, one = await _store(store).groups(Filter(), 5)
    assert (most.count, most.oldest, most.newest) == (3, ended[str(ids[1])], ended[str(ids[2])])
    assert (one.count, one.status, one.reason, one.oldest) == (1, Status.UNKNOWN, "timeout", ended[str(other)])


@pytest.mark.parametrize(("version", "stale"), [(2, True), (3, False)])
async def test_a_copy_is_stale_once_its_job_moved_on_or_is_gone(store: Store, version: int, stale: bool) -> None:
    copy, deleted = Pointer(await _dead(store), version), Pointer(message().id, 3)
    assert await _store(store).stale([copy, deleted], 5) == ({copy, deleted} if stale else {deleted})


async def test_a_report_is_requeued_for_the_report_queue(store: Store) -> None:
    id_ = await _dead(store, report(), Outcome(Verdict.REJECTED, "bad_data"))
    await _requeue(store, id_)
    assert store.rows("SELECT provider, status FROM jobs") == [(None, "queued")]
    assert store.rows("SELECT queue FROM outbox") == [(REPORTS.name,)]
