"""Retention deletes jobs whose time is up. Erasure deletes the messages to one destination, of one client or of all."""

from dataclasses import replace
from typing import Any

from infra.postgres.ledger import Ledger
from infra.postgres.retention import Retention
from infra.postgres.transitions.apply import LateAcceptance
from jobs.decision import decide, decide_lost
from jobs.lifecycle import ENDS, Status
from jobs.model import Claimed, Delivery, Kind, NewJob, Transition
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from tests.support.factories import ACCEPTED, as_lost, claim_request, message, report
from tests.support.ledger import Store

DAY = 86_400.0
OLD = "now() - interval '31 days'"
UNKNOWN = Outcome(Verdict.UNKNOWN, "timeout")


async def _put(store: Store, new: NewJob, status: Status, finished: str = OLD) -> str:
    """A job in this status. An ended job ended at `finished`; every job is old."""
    await store.ledger.accept([new], 5)
    ended = finished if status in ENDS else "NULL"
    store.rows(f"UPDATE jobs SET status = '{status}', created_at = {OLD}, finished_at = {ended} WHERE id = '{new.id}'")
    return str(new.id)


def _ids(store: Store, table: str = "jobs", column: str = "id") -> set[str]:
    return {str(id_) for (id_,) in store.rows(f"SELECT {column} FROM {table}")}


async def _purge(store: Store, kind: Kind = Kind.MESSAGE, limit: int = 1000) -> int:
    return await Retention(store.pool).purge(kind, 30 * DAY, 5, limit)


async def test_failed_and_unknown_jobs_and_jobs_without_an_end_outlast_the_retention(store: Store) -> None:
    jobs = {status: await _put(store, message(), status) for status in Status}
    retained = {status for status in Status if status not in ENDS} | {Status.FAILED, Status.UNKNOWN}
    assert await _purge(store) == len(jobs) - len(retained)
    assert _ids(store) == {jobs[status] for status in retained}
    assert await _purge(store) == 0


async def test_the_retention_of_one_kind_spares_the_others_and_the_recent(store: Store) -> None:
    await _put(store, message(), Status.SENT)
    recent = await _put(store, message(), Status.SENT, "now() - interval '29 days'")
    other = await _put(store, report(), Status.COMPLETED)
    assert await _purge(store) == 1
    assert _ids(store) == {recent, other}
    assert await _purge(store, Kind.REPORT) == 1
    assert _ids(store) == {recent}


async def test_a_deleted_job_takes_its_own_tags_and_outbox_rows_with_it(store: Store) -> None:
    await _put(store, replace(message(), tags=("a", "b")), Status.SENT)
    retained = await _put(store, replace(message(), tags=("a",)), Status.FAILED)
    assert await _purge(store) == 1
    assert _ids(store, "message_tags", "job_id") == _ids(store, "outbox", "job_id") == {retained}


async def test_a_deleted_report_takes_its_run_and_its_result_with_it(store: Store) -> None:
    id_ = await _put(store, report(), Status.COMPLETED)
    store.rows(f"""
        INSERT INTO report_runs VALUES (gen_random_uuid(), '{id_}', '1-1-1 1:1:', now(), NULL, '{{0,1}}', 0);
        INSERT INTO report_partitions SELECT id, 0, 1, '{{1}}', '{{2}}' FROM report_runs;
        INSERT INTO report_results VALUES ('{id_}', gen_random_uuid(), 1, 1, 2, now(), '{{}}', NULL, NULL, '')""")
    assert await _purge(store, Kind.REPORT) == 1
    for table in ("report_runs", "report_partitions", "report_results"):
        assert store.rows(f"SELECT 1 FROM {table}") == []


async def test_a_purge_is_limited_and_skips_a_locked_job(store: Store) -> None:
    for _ in range(3):
        await _put(store, message(), Status.SENT)
    assert [await _purge(store, limit=2) for _ in range(3)] == [2, 1, 0]


async def _concerning(store: Store, client: str, destination: str, status: Status = Status.SENT) -> set[str]:
    """A message of this client to this destination, and its callback."""
    sent = replace(message(destination), client_id=client, tags=("t",))
    callback = replace(message("https://receiver.example"), client_id=client)
    await _put(store, sent, status)
    await _put(store, callback, Status.SENT)
    store.rows(f"UPDATE jobs SET kind = 'callback', parent_id = '{sent.id}', parent_version = 3 WHERE id = '{callback.id}'")
    return {str(sent.id), str(callback.id)}


async def _erase(store: Store, client: str | None) -> int:
    retention, total, count = Retention(store.pool), 0, 1
    while count:
        total += (count := await retention.erase("+1", client, 5))
    return total


async def test_one_clients_erasure_leaves_the_messages_of_another_to_the_same_destination(store: Store) -> None:
    own, other_clients = await _concerning(store, "one", "+1"), await _concerning(store, "other", "+1")
    elsewhere = await _concerning(store, "one", "+2")
    assert await _erase(store, "one") == len(own)
    assert _ids(store) == other_clients | elsewhere
    assert await _erase(store, None) == len(other_clients)
    assert _ids(store) == elsewhere
    assert _ids(store, "message_tags", "job_id") <= elsewhere


async def test_an_erasure_spares_and_counts_what_is_under_way(store: Store) -> None:
    waiting = {status: await _concerning(store, "one", "+1", status) for status in Status if status not in ENDS}
    await _concerning(store, "other", "+1", Status.QUEUED)
    dead = await _concerning(store, "one", "+1", Status.UNKNOWN)
    before = _ids(store)
    assert await _erase(store, "one") == 2
    assert _ids(store) == before - dead
    under_way = [await Retention(store.pool).under_way("+1", client, 5) for client in ("one", "nobody", None)]
    assert under_way == [len(waiting), 0, len(waiting) + 1]
    assert await Retention(store.pool).under_way("+2", "one", 5) == 0


async def _claimed(ledger: Ledger, new: NewJob) -> Claimed:
    await ledger.accept([new], 5)
    (job,) = await ledger.claim([claim_request(new.id, lease=0.0)], 5)
    assert job is not None
    return job


def _step(job: Claimed, outcome: Outcome) -> Transition:
    return decide(job, outcome, RetryPolicy(), ran_seconds=0.1, jitter=0.5)


def _bodies(store: Store) -> list[Any]:
    return [body for (body,) in store.rows("SELECT body FROM jobs WHERE kind <> 'callback'")]


async def test_without_retention_a_body_is_forgotten_once_its_message_is_accepted(store: Store) -> None:
    ledger = Ledger(store.pool, grace_seconds=5, retain_body=False)
    url = "https://receiver.example"
    for outcome, retained in ((UNKNOWN, True), (Outcome(Verdict.REJECTED, "http_400", 400), True), (ACCEPTED, False)):
        job = await _claimed(ledger, replace(message(delivery=Delivery.AT_MOST_ONCE), callback_url=url))
        await ledger.apply([_step(job, outcome)], 5)
        assert store.rows(f"SELECT body IS NOT NULL FROM jobs WHERE id = '{job.id}'") == [(retained,)]
    assert store.rows("SELECT count(body) FROM jobs WHERE kind = 'callback'") == [(3,)]


async def test_without_retention_a_late_acceptance_forgets_the_body(store: Store) -> None:
    for delivery in Delivery:
        for retain in (False, True):
            ledger = Ledger(store.pool, grace_seconds=5, retain_body=retain)
            job = await _claimed(ledger, message(delivery=delivery))
            await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], 5)
            assert _bodies(store) == ["hello"]
            (step,) = await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], 5)
            assert step is not None and step.status is Status.SENT
            assert _bodies(store) == (["hello"] if retain else [None])
            store.rows("DELETE FROM jobs")


async def test_a_callback_keeps_its_body_without_retention(store: Store) -> None:
    ledger = Ledger(store.pool, grace_seconds=5, retain_body=False)
    job = await _claimed(ledger, replace(message(), callback_url="https://receiver.example"))
    (step,) = await ledger.apply([_step(job, ACCEPTED)], 5)
    assert step is not None and step.callback is not None
    (callback,) = await ledger.claim([claim_request(step.callback)], 5)
    assert callback is not None
    await ledger.apply([_step(callback, ACCEPTED)], 5)
    assert store.rows(f"SELECT body IS NOT NULL FROM jobs WHERE id = '{step.callback}'") == [(True,)]
