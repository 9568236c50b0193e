"""The promises of every ledger; the fake and Postgres pass the same suite."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from infra.postgres.leadership import WorkerSession
from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.accept import Accepted, KeyReused
from infra.postgres.transitions.apply import LateAcceptance
from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, REPORTS, Claimed, Delivery, IdempotencyKey, Kind, NewJob, Progress, Transition
from jobs.outcome import NOT_STARTED, Outcome, Verdict, from_http
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from tests.support.factories import ACCEPTED, as_lost, claim_request, message, report
from tests.support.fakes import FakeLedger

SECONDS = 5.0
URL = "https://receiver.example/hook"
AnyLedger = Ledger | FakeLedger


@pytest.fixture(params=["fake", "postgres"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[AnyLedger]:
    if request.param == "fake":
        yield FakeLedger()
        return
    pool = DatabasePool(request.getfixturevalue("database"), name="test", threads=2)
    yield Ledger(pool, grace_seconds=5)
    pool.close()


@dataclass
class FakeWorker:
    """The lock of one worker of a fake ledger."""

    ledger: FakeLedger
    worker_id: int = 7

    async def held(self) -> bool:
        self.ledger.locks.add(self.worker_id)
        return True

    async def release(self) -> None:
        self.ledger.locks.discard(self.worker_id)


@pytest.fixture
def worker(request: pytest.FixtureRequest, ledger: AnyLedger) -> Iterator[WorkerSession | FakeWorker]:
    if isinstance(ledger, FakeLedger):
        yield FakeWorker(ledger)
        return
    session = WorkerSession(request.getfixturevalue("database"), lease_seconds=60)
    yield session
    session.close()


def _decide(job: Claimed, outcome: Outcome, attempts: int = 3) -> Transition:
    return decide(job, outcome, RetryPolicy(attempts=attempts), ran_seconds=0.1, jitter=0.5)


async def _accepted(ledger: AnyLedger, new: NewJob) -> Accepted:
    (accepted,) = await ledger.accept([new], SECONDS)
    assert isinstance(accepted, Accepted)
    return accepted


async def _claimed(ledger: AnyLedger, lease: float = 60.0) -> Claimed:
    accepted = await _accepted(ledger, message(body="what to say"))
    (job,) = await ledger.claim([claim_request(accepted.id, lease=lease)], SECONDS)
    assert job is not None
    return job


async def test_a_claim_returns_the_job_one_version_further(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    assert (job.version, job.attempts, job.revision, job.body) == (2, 0, 0, "what to say")


async def test_accepting_the_same_id_again_changes_nothing(ledger: AnyLedger) -> None:
    new = message()
    await ledger.accept([new], SECONDS)
    request = claim_request(new.id)
    await ledger.claim([request], SECONDS)
    await ledger.accept([new], SECONDS)
    assert (await ledger.claim([claim_request(new.id, 1)], SECONDS)) == [None]


def _named(key: str, body: str = "hello", route: str = "/messages") -> NewJob:
    return replace(message(body=body), key=IdempotencyKey(route, key, body))


async def test_a_key_makes_one_job_also_within_one_batch(ledger: AnyLedger) -> None:
    first, twin, other = _named("k1"), _named("k1"), _named("k2")
    answers = await ledger.accept([first, twin, other], SECONDS)
    assert all(isinstance(answer, Accepted) for answer in answers)
    made = {answer.id for answer in answers if isinstance(answer, Accepted)}
    assert len(made) == 2 and other.id in made
    (loser,) = {first.id, twin.id} - made
    assert await ledger.claim([claim_request(loser)], SECONDS) == [None]
    again = await _accepted(ledger, _named("k2"))
    assert (again.id, again.replayed) == (other.id, True)


async def test_a_key_is_refused_for_another_request_and_free_on_another_route(ledger: AnyLedger) -> None:
    await _accepted(ledger, _named("k1"))
    neighbour = _named("k3")
    answers = await ledger.accept([_named("k1", body="other"), neighbour], SECONDS)
    assert isinstance(answers[0], KeyReused) and isinstance(answers[1], Accepted)
    assert not (await _accepted(ledger, _named("k1", body="other", route="/elsewhere"))).replayed


async def test_each_client_replays_its_own_job_under_an_equal_key(ledger: AnyLedger) -> None:
    clients = ("one", "other")
    first = [await _accepted(ledger, replace(_named("k1"), client_id=client)) for client in clients]
    assert first[0].id != first[1].id
    for order in (clients, clients[::-1]):
        again = await ledger.accept([replace(_named("k1"), client_id=client) for client in order], SECONDS)
        assert [_replayed(answer) for answer in again] == [first[clients.index(client)].id for client in order]
    theirs = replace(_named("k1", body="something else"), client_id="third")
    assert (await _accepted(ledger, theirs)).id == theirs.id


async def test_an_equal_key_of_another_route_and_another_key_are_not_replayed(ledger: AnyLedger) -> None:
    first = [await _accepted(ledger, new) for new in (_named("k1"), _named("k2"), _named("k1", route="/elsewhere"))]
    assert len({each.id for each in first}) == 3
    again = await ledger.accept([_named("k1"), _named("k1", route="/elsewhere"), _named("k2")], SECONDS)
    assert [_replayed(answer) for answer in again] == [first[0].id, first[2].id, first[1].id]


def _replayed(answer: Accepted | KeyReused) -> UUID | None:
    return answer.id if isinstance(answer, Accepted) and answer.replayed else None


async def test_repeating_an_accept_under_its_key_finds_it_done(ledger: AnyLedger) -> None:
    new = _named("k1")
    first, again = await _accepted(ledger, new), await _accepted(ledger, new)
    assert (first.id, again.id, again.replayed) == (new.id, new.id, False)


async def test_a_claim_of_another_version_or_of_no_job_is_stale(ledger: AnyLedger) -> None:
    new = message()
    await ledger.accept([new], SECONDS)
    stale = [claim_request(new.id, 2), claim_request(uuid4(), 1)]
    assert await ledger.claim(stale, SECONDS) == [None, None]


async def test_a_second_claim_of_the_same_version_is_stale(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    assert await ledger.claim([claim_request(job.id, 1)], SECONDS) == [None]


async def test_a_job_that_is_held_or_was_sent_cannot_be_claimed_at_its_own_version(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    assert await ledger.claim([claim_request(job.id, job.version)], SECONDS) == [None]
    (sent,) = await ledger.apply([_decide(job, ACCEPTED)], SECONDS)
    assert sent is not None
    assert await ledger.claim([claim_request(job.id, sent.version)], SECONDS) == [None]


async def test_repeating_a_claim_under_its_token_finds_it_done(ledger: AnyLedger) -> None:
    new = message()
    await ledger.accept([new], SECONDS)
    request = claim_request(new.id)
    (first,) = await ledger.claim([request], SECONDS)
    (again,) = await ledger.claim([request], SECONDS)
    assert first is not None and again is not None
    assert replace(again, age_seconds=0) == replace(first, age_seconds=0)


async def test_repeating_a_claim_that_was_taken_back_meanwhile_is_stale(ledger: AnyLedger) -> None:
    new = message()
    await ledger.accept([new], SECONDS)
    request = claim_request(new.id, lease=0.0)
    (job,) = await ledger.claim([request], SECONDS)
    assert job is not None
    await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
    assert await ledger.claim([request], SECONDS) == [None]


async def test_repeating_an_outcome_under_its_token_finds_it_done(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    step = _decide(job, ACCEPTED)
    first, again = await ledger.apply([step], SECONDS), await ledger.apply([step], SECONDS)
    assert first == again
    assert first[0] is not None and (first[0].status, first[0].version) == (Status.SENT, 3)


async def test_repeating_a_release_under_its_token_finds_it_done(ledger: AnyLedger) -> None:
    step = _decide(await _claimed(ledger), NOT_STARTED)
    first, again = await ledger.apply([step], SECONDS), await ledger.apply([step], SECONDS)
    assert first == again
    assert first[0] is not None and first[0].status is Status.QUEUED


async def test_an_outcome_under_another_token_or_version_is_stale(ledger: AnyLedger) -> None:
    step = _decide(await _claimed(ledger), ACCEPTED)
    foreign = [replace(step, token=uuid4()), replace(step, version=1)]
    for other in foreign:
        assert await ledger.apply([other], SECONDS) == [None]
    assert (await ledger.apply([step], SECONDS))[0] is not None


async def test_a_retry_is_charged_and_claimed_at_its_new_version(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    (step,) = await ledger.apply([_decide(job, Outcome(Verdict.RETRYABLE, "http_500", 500))], SECONDS)
    assert step is not None and step.status is Status.RETRYING
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None
    assert (again.attempts, again.tries, again.version) == (1, 1, 4)


async def test_a_release_is_not_charged(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    (step,) = await ledger.apply([_decide(job, NOT_STARTED)], SECONDS)
    assert step is not None and step.publish
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None and (again.attempts, again.tries) == (0, 0)


async def test_claiming_a_dead_letter_begins_a_new_revision(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    (dead,) = await ledger.apply([_decide(job, Outcome(Verdict.REJECTED, "http_400", 400))], SECONDS)
    assert dead is not None and dead.status is Status.FAILED
    (again,) = await ledger.claim([claim_request(job.id, dead.version)], SECONDS)
    assert again is not None
    assert (again.revision, again.attempts, again.tries) == (1, 0, 0)
    assert again.idempotency_key == f"{job.id}-1"


async def test_a_lease_that_still_runs_cannot_be_reaped(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    assert await ledger.expired_leases(10, SECONDS) == []
    lost = decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)
    assert await ledger.apply([lost], SECONDS) == [None]


async def _claimed_by(worker: WorkerSession | FakeWorker, ledger: AnyLedger, lease: float = 60.0) -> Claimed:
    accepted = await _accepted(ledger, message())
    (job,) = await ledger.claim([claim_request(accepted.id, lease=lease)], SECONDS, worker.worker_id)
    assert job is not None
    return job


async def test_a_job_of_a_living_worker_is_not_taken_back(ledger: AnyLedger, worker: WorkerSession | FakeWorker) -> None:
    assert await worker.held() and await worker.held()
    job = await _claimed_by(worker, ledger)
    assert await ledger.orphans(10, SECONDS) == []
    assert await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]


async def test_a_job_of_a_dead_worker_is_taken_back_and_accepted_late(
    ledger: AnyLedger, worker: WorkerSession | FakeWorker
) -> None:
    await worker.held()
    job = await _claimed_by(worker, ledger)
    await worker.release()
    (orphan,) = await ledger.orphans(10, SECONDS)
    assert (orphan.id, orphan.version, orphan.token, orphan.started) == (job.id, job.version, job.token, True)
    assert orphan.worker_id == worker.worker_id
    assert await ledger.expired_leases(10, SECONDS) == []
    (step,) = await ledger.apply([decide_lost(orphan, RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
    assert step is not None and step.status is Status.RETRYING
    assert await ledger.orphans(10, SECONDS) == []
    assert await ledger.apply([_decide(job, ACCEPTED)], SECONDS) == [None]
    (late,) = await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS)
    assert late is not None and late.status is Status.SENT


async def test_a_lock_that_was_acquired_again_keeps_its_jobs(ledger: AnyLedger, worker: WorkerSession | FakeWorker) -> None:
    await _claimed_by(worker, ledger)
    (orphan,) = await ledger.orphans(10, SECONDS)
    await worker.held()
    assert await ledger.apply([decide_lost(orphan, RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]
    assert await ledger.orphans(10, SECONDS) == []


async def test_an_expired_lease_of_a_dead_worker_is_no_orphan(ledger: AnyLedger, worker: WorkerSession | FakeWorker) -> None:
    await _claimed_by(worker, ledger, lease=0.0)
    assert await ledger.orphans(10, SECONDS) == []
    assert len(await ledger.expired_leases(10, SECONDS)) == 1


async def test_a_claim_without_a_worker_has_its_lease_alone(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    assert await ledger.orphans(10, SECONDS) == []
    assert await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]


async def test_an_expired_lease_is_found_and_its_late_outcome_is_stale(ledger: AnyLedger) -> None:
    job = await _claimed(ledger, lease=0.0)
    (expired,) = await ledger.expired_leases(10, SECONDS)
    assert (expired.id, expired.version, expired.token) == (job.id, job.version, job.token)
    (step,) = await ledger.apply([decide_lost(expired, RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
    assert step is not None and step.status is Status.RETRYING
    assert await ledger.apply([_decide(job, ACCEPTED)], SECONDS) == [None]
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None and (again.attempts, again.tries, again.lost_leases) == (0, 1, 1)


async def test_only_what_must_be_published_is_in_the_outbox(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    (sent,) = await ledger.apply([_decide(job, ACCEPTED)], SECONDS)
    other = await _claimed(ledger)
    (dead,) = await ledger.apply([_decide(other, Outcome(Verdict.REJECTED, "http_400", 400))], SECONDS)
    assert sent is not None and not sent.publish
    assert dead is not None and dead.publish
    if isinstance(ledger, FakeLedger):
        assert ledger.outbox[Pointer(other.id, dead.version)] == "messages.dead"


async def test_a_lease_is_renewed_by_its_holder_alone(ledger: AnyLedger) -> None:
    job = await _claimed(ledger, lease=0.0)
    assert await ledger.renew(job, 60, Progress(10, 100), SECONDS)
    assert await ledger.expired_leases(10, SECONDS) == []
    assert not await ledger.renew(replace(job, token=uuid4()), 60, Progress(), SECONDS)
    assert not await ledger.renew(replace(job, version=1), 60, Progress(), SECONDS)
    await ledger.apply([_decide(job, ACCEPTED)], SECONDS)
    assert not await ledger.renew(job, 60, Progress(), SECONDS)


async def test_a_lease_that_was_renewed_in_between_is_not_reaped(ledger: AnyLedger) -> None:
    job = await _claimed(ledger, lease=0.0)
    (expired,) = await ledger.expired_leases(10, SECONDS)
    assert await ledger.renew(job, 60, Progress(), SECONDS)
    assert await ledger.apply([decide_lost(expired, RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]


async def test_a_report_is_claimed_like_a_message_and_completes(ledger: AnyLedger) -> None:
    accepted = await _accepted(ledger, report())
    (job,) = await ledger.claim([claim_request(accepted.id)], SECONDS)
    assert job is not None and (job.queue, job.destination, job.body) == (REPORTS, None, None)
    (step,) = await ledger.apply([_decide(job, ACCEPTED)], SECONDS)
    assert step is not None and (step.status, step.kind, step.publish) == (Status.COMPLETED, Kind.REPORT, False)


async def test_a_deferred_job_waits_uncharged_and_can_be_repeated(ledger: AnyLedger) -> None:
    job = await _claimed(ledger)
    step = _decide(job, from_http(429, None, 0.0))
    first, again = await ledger.apply([step], SECONDS), await ledger.apply([step], SECONDS)
    assert first == again and first[0] is not None and first[0].status is Status.QUEUED
    (held,) = await ledger.claim([claim_request(job.id, first[0].version)], SECONDS)
    assert held is not None and (held.attempts, held.tries) == (0, 1)


async def test_at_most_once_ends_as_unknown_and_keeps_its_key_when_claimed_again(ledger: AnyLedger) -> None:
    accepted = await _accepted(ledger, message(delivery=Delivery.AT_MOST_ONCE))
    (job,) = await ledger.claim([claim_request(accepted.id)], SECONDS)
    assert job is not None and job.delivery is Delivery.AT_MOST_ONCE
    (step,) = await ledger.apply([_decide(job, Outcome(Verdict.UNKNOWN, "timeout"))], SECONDS)
    assert step is not None and (step.status, step.publish) == (Status.UNKNOWN, True)
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None
    assert (again.revision, again.idempotency_key) == (1, job.idempotency_key)


async def test_a_late_acceptance_counts_until_the_next_claim(ledger: AnyLedger) -> None:
    for delivery in Delivery:
        accepted = await _accepted(ledger, message(delivery=delivery))
        (job,) = await ledger.claim([claim_request(accepted.id, lease=0.0)], SECONDS)
        assert job is not None
        late = LateAcceptance(job.id, job.token, 200, "m1")
        assert await ledger.accept_late([late], SECONDS) == [None]  # still processing: no business of this
        await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
        assert await ledger.accept_late([replace(late, token=uuid4())], SECONDS) == [None]
        first, again = await ledger.accept_late([late], SECONDS), await ledger.accept_late([late], SECONDS)
        assert first == again and first[0] is not None and first[0].status is Status.SENT
        assert await ledger.claim([claim_request(job.id, first[0].version - 1)], SECONDS) == [None]


async def test_a_late_acceptance_never_overrides_a_later_claim(ledger: AnyLedger) -> None:
    job = await _claimed(ledger, lease=0.0)
    (lost,) = await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
    assert lost is not None
    (later,) = await ledger.claim([claim_request(job.id, lost.version)], SECONDS)
    assert later is not None
    await ledger.apply([_decide(later, Outcome(Verdict.RETRYABLE, "http_500", 500))], SECONDS)
    assert await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS) == [None]


async def test_a_lease_lost_before_the_work_began_is_not_counted(ledger: AnyLedger) -> None:
    job = await _claimed(ledger, lease=0.0)
    for begun, counted in ((False, 1), (True, 2)):
        (lost,) = await ledger.expired_leases(10, SECONDS)
        (step,) = await ledger.apply([decide_lost(lost, RetryPolicy(), limit=9, jitter=0.0)], SECONDS)
        assert step is not None and step.status is Status.RETRYING
        (again,) = await ledger.claim([claim_request(job.id, step.version, lease=0.0)], SECONDS)
        assert again is not None and again.lost_leases == 1
        if begun:
            assert await ledger.renew(again, 0.0, Progress(), SECONDS)
        (lost,) = await ledger.expired_leases(10, SECONDS)
        assert lost.started is begun
        (step,) = await ledger.apply([decide_lost(lost, RetryPolicy(), limit=9, jitter=0.0)], SECONDS)
        assert step is not None
        (job_now,) = await ledger.claim([claim_request(job.id, step.version, lease=0.0)], SECONDS)
        assert job_now is not None and job_now.lost_leases == counted


async def _told(ledger: AnyLedger, callback: UUID | None) -> dict[str, Any]:
    """The event of a callback, from its claim."""
    assert callback is not None
    (job,) = await ledger.claim([claim_request(callback)], SECONDS)
    assert job is not None and (job.queue, job.destination) == (CALLBACKS, URL)
    event = json.loads(job.body or "")
    return {"type": event["type"], **{name: event["data"][name] for name in ("id", "status", "sequence")}}


def _telling(new: NewJob) -> NewJob:
    return replace(new, callback_url=URL)


async def test_each_end_of_a_job_makes_a_callback_in_the_same_step(ledger: AnyLedger) -> None:
    ends = [
        (message(), Outcome(Verdict.ACCEPTED, None, 200), "message.sent"),
        (message(), Outcome(Verdict.REJECTED, "http_400", 400), "message.failed"),
        (message(delivery=Delivery.AT_MOST_ONCE), Outcome(Verdict.UNKNOWN, "timeout"), "message.unknown"),
        (report(), Outcome(Verdict.ACCEPTED), "report.completed"),
        (report(), Outcome(Verdict.REJECTED, "bad_data"), "report.failed"),
    ]
    for new, outcome, type_ in ends:
        id_ = (await _accepted(ledger, _telling(new))).id
        (job,) = await ledger.claim([claim_request(id_)], SECONDS)
        assert job is not None
        (step,) = await ledger.apply([_decide(job, outcome)], SECONDS)
        assert step is not None
        status = type_.partition(".")[2]
        assert await _told(ledger, step.callback) == {"type": type_, "id": str(id_), "status": status, "sequence": 3}


async def test_no_callback_without_a_final_status_or_a_callback_url(ledger: AnyLedger) -> None:
    for new, outcome in (
        (_telling(message()), Outcome(Verdict.RETRYABLE, "http_500", 500)),
        (_telling(message()), NOT_STARTED),
        (message(), Outcome(Verdict.ACCEPTED, None, 200)),
    ):
        id_ = (await _accepted(ledger, new)).id
        (job,) = await ledger.claim([claim_request(id_)], SECONDS)
        assert job is not None
        (step,) = await ledger.apply([_decide(job, outcome)], SECONDS)
        assert step is not None and step.callback is None


async def test_a_callback_makes_no_callback(ledger: AnyLedger) -> None:
    id_ = (await _accepted(ledger, _telling(message()))).id
    (job,) = await ledger.claim([claim_request(id_)], SECONDS)
    assert job is not None
    (step,) = await ledger.apply([_decide(job, ACCEPTED)], SECONDS)
    assert step is not None and step.callback is not None
    (callback,) = await ledger.claim([claim_request(step.callback)], SECONDS)
    assert callback is not None
    (last,) = await ledger.apply([_decide(callback, ACCEPTED)], SECONDS)
    assert last is not None and (last.status, last.callback) == (Status.SENT, None)


async def test_a_late_acceptance_tells_again_with_a_greater_sequence(ledger: AnyLedger) -> None:
    new = _telling(message(delivery=Delivery.AT_MOST_ONCE))
    await _accepted(ledger, new)
    (job,) = await ledger.claim([claim_request(new.id, lease=0.0)], SECONDS)
    assert job is not None
    (unknown,) = await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.5)], SECONDS)
    (late,) = await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS)
    assert unknown is not None and late is not None
    told = [await _told(ledger, unknown.callback), await _told(ledger, late.callback)]
    assert [(each["type"], each["sequence"]) for each in told] == [("message.unknown", 3), ("message.sent", 4)]
    assert (await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS))[0] is not None
