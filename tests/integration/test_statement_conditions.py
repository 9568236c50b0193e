"""Each statement touches the rows that it names, and no other."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import psycopg2

from infra.postgres.dead_letters import BEFORE_ALL, DeadLetterStore, Filter
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.providers import ProviderStore
from infra.postgres.retention import Retention
from infra.postgres.sweep import Sweep
from infra.postgres.transitions.apply import LateAcceptance
from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status
from jobs.model import DEAD_QUEUES, REPORTS, Kind, NewJob, Priority, Progress, message_queue
from jobs.outcome import Outcome, Verdict, from_http
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from tests.support.factories import ACCEPTED, claim_request, message, new_id, report
from tests.support.ledger import Store

NORMAL = message_queue("sandbox")
LONG_AGO = "now() - interval '1 h'"


async def _accept(store: Store, job: NewJob | None = None) -> NewJob:
    job = job or message()
    await Ledger(store.pool, grace_seconds=0).accept([job], 5)
    return job


async def _end(store: Store, outcome: Outcome, job: NewJob | None = None, attempts: int = 1) -> UUID:
    """Accept, claim and end a job."""
    id_ = (await _accept(store, job)).id
    (claimed,) = await store.ledger.claim([claim_request(id_)], 5)
    assert claimed is not None
    await store.ledger.apply([decide(claimed, outcome, RetryPolicy(attempts=attempts), ran_seconds=1, jitter=0)], 5)
    return id_


def _row(store: Store, job_id: UUID, version: int, queue: str = "q", due: str = LONG_AGO) -> None:
    store.rows(
        f"INSERT INTO outbox (job_id, version, route, queue, due_at) VALUES ('{job_id}', {version}, 'work', '{queue}', {due})"
    )


def _outbox(store: Store) -> set[tuple[str, int]]:
    return {(str(id_), int(str(version))) for id_, version in store.rows("SELECT job_id, version FROM outbox")}


async def test_a_row_is_deleted_by_job_and_version(store: Store) -> None:
    one, other = new_id(), new_id()
    for id_ in (one, other):
        _row(store, id_, 1)
        _row(store, id_, 2)
    await Outbox(store.pool).delete([Pointer(one, 1)], 5)
    assert _outbox(store) == {(str(one), 2), (str(other), 1), (str(other), 2)}


async def test_a_taken_row_delays_no_other_version_and_is_released_alone(store: Store) -> None:
    outbox, one, other = Outbox(store.pool), new_id(), new_id()
    _row(store, one, 1, "a")
    _row(store, one, 2, "b")
    _row(store, other, 1, "a", due="now() + interval '1 h'")
    (due,) = await outbox.take("a", 10, 5)
    assert due.pointer == Pointer(one, 1)
    assert [due.pointer for due in await outbox.take("b", 10, 5)] == [Pointer(one, 2)]
    await outbox.release([Pointer(one, 1)], 5)
    assert [due.pointer for due in await outbox.take("a", 10, 5)] == [Pointer(one, 1)]
    assert await outbox.take("b", 10, 5) == []


async def test_the_oldest_rows_are_taken_first(store: Store) -> None:
    ids = [new_id() for _ in range(4)]
    for hours, id_ in zip((1, 4, 2, 3), ids, strict=True):
        _row(store, id_, 1, due=f"now() - interval '{hours} h'")
    due = await Outbox(store.pool).take("q", 2, 5)
    assert {row.pointer.id for row in due} == {ids[1], ids[3]}


async def test_a_queue_is_due_by_its_own_rows(store: Store) -> None:
    _row(store, new_id(), 1, "a", due="now() + interval '1 h'")
    _row(store, new_id(), 1, "b")
    _row(store, new_id(), 1, "c")
    _row(store, new_id(), 1, "c", due="now() + interval '1 h'")
    assert await Outbox(store.pool).queues_due(5) == ["b", "c"]


async def test_a_renewal_writes_the_progress_of_its_job(store: Store) -> None:
    one, other = await _accept(store, report()), await _accept(store, report())
    jobs = await store.ledger.claim([claim_request(one.id), claim_request(other.id)], 5)
    assert jobs[0] is not None
    store.rows(f"UPDATE jobs SET updated_at = {LONG_AGO}")
    assert await store.ledger.renew(jobs[0], 600, Progress(7, 9), 5)
    rows = store.rows(
        "SELECT id, progress_done, progress_about, updated_at > now() - interval '1 min', "
        "lease_until > now() + interval '5 min' "
        f"FROM jobs ORDER BY id = '{one.id}' DESC"
    )
    assert [row[1:] for row in rows] == [(7, 9, True, True), (None, None, False, False)]


async def test_the_leases_that_expired_first_are_found_first(store: Store) -> None:
    ids = [(await _accept(store)).id for _ in range(3)]
    await store.ledger.claim([claim_request(id_) for id_ in ids], 5)
    for hours, id_ in zip((1, 3, 2), ids, strict=True):
        store.rows(f"UPDATE jobs SET lease_until = now() - interval '{hours} h' WHERE id = '{id_}'")
    assert [lost.id for lost in await store.ledger.expired_leases(2, 5)] == [ids[1], ids[2]]


async def test_the_orphans_whose_leases_expire_first_are_found_first(store: Store) -> None:
    ids = [(await _accept(store)).id for _ in range(3)]
    for minutes, id_ in zip((1, 3, 2), ids, strict=True):
        await store.ledger.claim([claim_request(id_, lease=minutes * 60)], 5, worker_id=7)
    assert [lost.id for lost in await store.ledger.orphans(2, 5)] == [ids[0], ids[2]]


async def test_a_worker_of_an_earlier_claim_does_not_own_the_claim_of_an_earlier_release(store: Store) -> None:
    """The earlier release sets version, status, token and lease, and leaves the worker's columns alone."""
    id_ = (await _accept(store)).id
    await store.ledger.claim([claim_request(id_)], 5, worker_id=7)
    (orphan,) = await store.ledger.orphans(10, 5)
    store.rows("UPDATE jobs SET status = 'processing', version = version + 2, claim_token = gen_random_uuid()")
    assert await store.ledger.orphans(10, 5) == []
    ((version, token),) = store.rows("SELECT version, CAST(claim_token AS text) FROM jobs")
    unfenced = replace(orphan, version=int(str(version)), token=UUID(str(token)))
    assert await store.ledger.apply([decide_lost(unfenced, RetryPolicy(), limit=9, jitter=0)], 5) == [None]


async def test_only_the_exclusive_lock_of_this_database_and_of_both_halves_is_a_workers(store: Store) -> None:
    worker_id = (3 << 32) | 5
    await store.ledger.claim([claim_request((await _accept(store)).id)], 5, worker_id=worker_id)
    connection = psycopg2.connect(store.database)
    try:
        for lock, orphans in (("(3, 4)", 1), ("(4, 5)", 1), (f"({worker_id})", 1), ("_shared(3, 5)", 1), ("(3, 5)", 0)):
            connection.cursor().execute(f"SELECT pg_advisory_lock{lock}")
            assert len(await store.ledger.orphans(10, 5)) == orphans, lock
    finally:
        connection.close()


async def test_the_oldest_idempotency_keys_are_deleted_first(store: Store) -> None:
    for hours in (3, 1, 2):
        store.rows(
            "INSERT INTO idempotency_keys (client_id, route, key, fingerprint, job_id, created_at) "
            f"VALUES ('default', 'message', 'k{hours}', 'f', '{new_id()}', now() - interval '{hours} h')"
        )
    assert await store.ledger.forget_keys(1800, 2, 5) == 2
    assert store.rows("SELECT key FROM idempotency_keys") == [("k1",)]


async def test_a_dead_letter_shows_the_reason_of_its_own_last_attempt(store: Store) -> None:
    rejected = await _end(store, from_http(400))
    exhausted = await _end(store, Outcome(Verdict.RETRYABLE, "http_500", 500))
    letters = await DeadLetterStore(store.pool).page(Filter(), BEFORE_ALL, 10, 5)
    attempts = {letter.id: (letter.last_reason, letter.provider_code) for letter in letters}
    assert attempts == {rejected: ("http_400", 400), exhausted: ("http_500", 500)}


async def test_only_unfinished_messages_to_the_destination_are_under_way(store: Store) -> None:
    await _end(store, ACCEPTED)
    await _end(store, from_http(400))
    await _accept(store)
    await _accept(store, message(destination="+2"))
    assert await Retention(store.pool).under_way("+1", None, 5) == 1


async def _lost(store: Store, job: NewJob, version: int = 1) -> None:
    """Accept a job that is long due and has no message."""
    await _accept(store, job)
    store.rows(f"UPDATE jobs SET due_at = {LONG_AGO}, version = {version} WHERE id = '{job.id}'")
    store.rows(f"DELETE FROM outbox WHERE job_id = '{job.id}'")


async def test_a_sweep_requeues_the_waiting_jobs_of_its_queue(store: Store) -> None:
    """By provider, priority and kind; queued or retrying; a row of an earlier version is no message of this one."""
    sweep, now = Sweep(store.pool), (await Sweep(store.pool).observe(NORMAL, behind_seconds=5, timeout=5)).now
    high, other = message_queue("sandbox", Priority.HIGH), message_queue("other")
    jobs = {name: message() for name in ("queued", "retrying", "stale row", "has row", "sent")}
    jobs |= {
        "high": NewJob(new_id(), "default", high, "+1", "hello"),
        "other": NewJob(new_id(), "default", other, "+1", "hello"),
        "report": report(),
    }
    for job in jobs.values():
        await _lost(store, job, version=3)
    store.rows(f"UPDATE jobs SET status = 'retrying' WHERE id = '{jobs['retrying'].id}'")
    store.rows(f"UPDATE jobs SET status = 'sent' WHERE id = '{jobs['sent'].id}'")
    _row(store, jobs["stale row"].id, 1)
    _row(store, jobs["has row"].id, 3)
    before = _outbox(store)
    page = await sweep.requeue(NORMAL, before=now - timedelta(minutes=1), after=None, timeout=5)
    expected = {(str(jobs[name].id), 3) for name in ("queued", "retrying", "stale row")}
    assert (page.requeued, _outbox(store) - before) == (3, expected)
    callback = report()
    await _lost(store, callback, version=3)
    store.rows(f"UPDATE jobs SET kind = 'callback' WHERE id = '{callback.id}'")
    page = await sweep.requeue(REPORTS, before=now - timedelta(minutes=1), after=None, timeout=5)
    assert (page.requeued, _outbox(store) - before - expected) == (1, {(str(jobs["report"].id), 3)})


async def test_an_observation_is_of_its_own_queue(store: Store) -> None:
    sweep = Sweep(store.pool)
    _row(store, new_id(), 1, "another queue")
    _row(store, new_id(), 1, NORMAL.name, due="now() + interval '1 h'")
    for queue in (message_queue("other"), message_queue("sandbox", Priority.HIGH)):
        job = await _accept(store, NewJob(new_id(), "default", queue, "+1", "hello"))
        await store.ledger.claim([claim_request(job.id)], 5)
    await _accept(store)
    store.rows(f"UPDATE outbox SET due_at = now() + interval '1 h' WHERE queue = '{NORMAL.name}'")
    observation = await sweep.observe(NORMAL, behind_seconds=5, timeout=5)
    assert (observation.is_behind, observation.claimed_until) == (False, None)
    await store.ledger.claim([claim_request((await _accept(store)).id)], 5)
    _row(store, new_id(), 1, NORMAL.name)
    observation = await sweep.observe(NORMAL, behind_seconds=5, timeout=5)
    assert observation.is_behind and observation.claimed_until is not None


async def test_dead_letters_of_a_kind_are_published_again_in_the_order_of_their_ids(store: Store) -> None:
    failed = await _end(store, from_http(400))
    unknown = await _end(store, Outcome(Verdict.UNKNOWN, "timeout"), attempts=1)
    store.rows(f"UPDATE jobs SET status = 'unknown' WHERE id = '{unknown}'")
    await _end(store, ACCEPTED)
    await _end(store, Outcome(Verdict.RETRYABLE, "http_500"), report())
    await _accept(store)
    store.rows("DELETE FROM outbox")
    _row(store, failed, 3, DEAD_QUEUES[Kind.MESSAGE])  # one message is not published yet
    last, count = await Sweep(store.pool).refill_dead(Kind.MESSAGE, "00000000-0000-0000-0000-000000000000", 5)
    assert (last, count) == (str(unknown), 2)
    assert _outbox(store) == {(str(failed), 3), (str(unknown), 3)}
    ((headers, queue, route),) = store.rows(f"SELECT headers, queue, route FROM outbox WHERE job_id = '{unknown}'")
    assert isinstance(headers, dict)
    assert (headers["last_reason"], queue, route) == ("timeout", DEAD_QUEUES[Kind.MESSAGE], "dead")
    assert await Sweep(store.pool).refill_dead(Kind.MESSAGE, str(failed), 5) == (str(unknown), 1)
    assert await Sweep(store.pool).refill_dead(Kind.MESSAGE, str(unknown), 5) == (None, 0)


async def test_an_outcome_of_a_lost_claim_is_stale_though_a_later_claim_was_recorded(store: Store) -> None:
    await _end(store, ACCEPTED)
    id_ = (await _accept(store)).id
    (lost,) = await store.ledger.claim([claim_request(id_)], 5)
    assert lost is not None
    store.rows(f"UPDATE jobs SET lease_until = {LONG_AGO} WHERE id = '{id_}'")
    (expired,) = await store.ledger.expired_leases(10, 5)
    await store.ledger.apply([decide_lost(expired, RetryPolicy(), limit=3, jitter=0)], 5)
    (second,) = await store.ledger.claim([claim_request(id_, 3)], 5)
    assert second is not None
    done = decide(second, from_http(400), RetryPolicy(), ran_seconds=1, jitter=0)
    assert await store.ledger.apply([done], 5) != [None]
    late = decide(lost, from_http(500), RetryPolicy(), ran_seconds=1, jitter=0)
    assert await store.ledger.apply([late], 5) == [None]
    assert store.rows(f"SELECT status, version FROM jobs WHERE id = '{id_}'") == [("failed", 5)]


async def test_a_repeated_transition_reads_back_its_own_row(store: Store) -> None:
    """Two jobs at the same version, both dead: each repetition gets the headers of its own job."""
    claims = []
    for _ in range(2):
        job = await _accept(store)
        claims += await store.ledger.claim([claim_request(job.id)], 5)
    steps = [
        decide(claim, from_http(code), RetryPolicy(), ran_seconds=1, jitter=0)
        for claim, code in zip(claims, (400, 404), strict=True)
        if claim is not None
    ]
    first = [await store.ledger.apply([step], 5) for step in steps]
    again = [await store.ledger.apply([step], 5) for step in steps]
    for (one,), (other,), code in zip(first, again, (400, 404), strict=True):
        assert one is not None and other is not None and other.headers is not None
        assert (other.id, other.version, other.publish, other.headers["provider_code"]) == (one.id, 3, True, code)


async def test_a_repeated_claim_reads_back_its_own_job(store: Store) -> None:
    one, other = await _accept(store), await _accept(store)
    requests = [claim_request(one.id), claim_request(other.id)]
    await store.ledger.claim(requests, 5)
    assert [job and job.id for job in await store.ledger.claim(requests[1:], 5)] == [other.id]
    assert await store.ledger.claim([claim_request(one.id)], 5) == [None]  # another token


async def test_requeue_discard_and_move_state_when_the_job_changed(store: Store) -> None:
    letters, providers = DeadLetterStore(store.pool), ProviderStore(store.pool)
    requeued, discarded = await _end(store, from_http(400)), await _end(store, from_http(400))
    moved = (await _accept(store, message(provider="old"))).id
    store.rows(f"UPDATE jobs SET updated_at = {LONG_AGO}")
    one, other = await letters.page(Filter(), BEFORE_ALL, 10, 5)
    assert await letters.requeue([(one, one.queue)], 5) == {requeued}
    assert await letters.discard([other], 5) == {discarded}
    assert await providers.move("old", "new", Priority.NORMAL, 5) == 1
    rows = store.rows("SELECT id, updated_at > now() - interval '1 min' FROM jobs")
    assert sorted(rows) == sorted((id_, True) for id_ in map(str, (requeued, discarded, moved)))


async def test_a_move_deletes_no_row_of_another_job(store: Store) -> None:
    moved, other = await _accept(store, message(provider="old")), await _accept(store)
    assert await ProviderStore(store.pool).move("old", "new", Priority.NORMAL, 5) == 1
    assert _outbox(store) == {(str(moved.id), 2), (str(other.id), 1)}


async def _lose_lease(store: Store, job: NewJob, version: int = 1) -> UUID:
    """Claim a job and expire its lease; the claim's token."""
    (claimed,) = await store.ledger.claim([claim_request(job.id, version)], 5)
    assert claimed is not None
    store.rows(f"UPDATE jobs SET lease_until = {LONG_AGO} WHERE id = '{job.id}'")
    (expired,) = await store.ledger.expired_leases(10, 5)
    await store.ledger.apply([decide_lost(expired, RetryPolicy(), limit=9, jitter=0)], 5)
    return claimed.token


async def test_a_late_acceptance_changes_its_own_job_attempt_and_rows(store: Store) -> None:
    one, other = (replace(message(), callback_url="https://example.com/") for _ in range(2))
    for job in (one, other):
        await _accept(store, job)
        await _lose_lease(store, job)
        token = await _lose_lease(store, job, 3)
        if job is one:
            late = LateAcceptance(one.id, token, 202, "provider's id")
    store.rows(f"UPDATE jobs SET updated_at = {LONG_AGO}, finished_at = NULL, reason = 'lease_lost'")
    (applied,) = await store.ledger.accept_late([late], 5)
    assert applied is not None and (applied.id, applied.version, applied.status) == (one.id, 6, Status.SENT)
    columns = (
        "status, reason, provider_message_id, updated_at > now() - interval '1 min', finished_at > now() - interval '1 min'"
    )
    assert store.rows(f"SELECT {columns} FROM jobs WHERE id = '{one.id}'") == [("sent", None, "provider's id", True, True)]
    assert store.rows(f"SELECT {columns} FROM jobs WHERE id = '{other.id}'") == [("retrying", "lease_lost", None, False, None)]
    attempts = "SELECT n, outcome, reason, provider_code FROM attempts WHERE job_id = '{}' ORDER BY n"
    lost = [(1, "lease_lost", "lease_lost", None), (2, "lease_lost", "not_started", None)]  # the second had not begun
    assert store.rows(attempts.format(one.id)) == [lost[0], (2, "accepted", "late", 202)]
    assert store.rows(attempts.format(other.id)) == lost
    assert {id_ for id_, _ in _outbox(store)} >= {str(other.id)} and str(one.id) not in {id_ for id_, _ in _outbox(store)}
    assert store.rows(f"SELECT parent_id FROM jobs WHERE id = '{applied.callback}'") == [(str(one.id),)]
    (again,) = await store.ledger.accept_late([late], 5)
    assert again is not None and (again.id, again.version, again.callback) == (one.id, 6, None)


async def test_a_late_acceptance_without_an_id_keeps_the_providers_id(store: Store) -> None:
    job = await _accept(store)
    token = await _lose_lease(store, job)
    store.rows("UPDATE jobs SET provider_message_id = 'earlier'")
    await store.ledger.accept_late([LateAcceptance(job.id, token, 202, None)], 5)
    assert store.rows("SELECT status, provider_message_id FROM jobs") == [("sent", "earlier")]


async def test_the_queue_of_an_accepted_job_has_the_name_of_the_model(store: Store) -> None:
    jobs = [report(), message(), replace(message(), queue=message_queue("other-1", Priority.HIGH))]
    await store.ledger.accept(jobs, 5)
    assert set(store.rows("SELECT CAST(job_id AS text), queue FROM outbox")) == {(str(job.id), job.queue.name) for job in jobs}
