"""Leases and workers' locks on Postgres: lost leases, renewals, late acceptances."""

from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from infra.postgres.leadership import WorkerSession
from infra.postgres.ledger import Ledger
from infra.postgres.transitions.apply import LateAcceptance
from jobs.decision import decide_lost
from jobs.lifecycle import Status
from jobs.model import Claimed, Delivery, Progress
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from tests.support.factories import ACCEPTED, as_lost, claim_request, message
from tests.support.ledger import SECONDS, accept_one, claim_new, decide_outcome


@pytest.fixture
def worker(database: str) -> Iterator[WorkerSession]:
    session = WorkerSession(database, lease_seconds=60)
    yield session
    session.close()


async def test_repeating_a_claim_that_was_taken_back_meanwhile_is_stale(ledger: Ledger) -> None:
    new = message()
    await ledger.accept([new], SECONDS)
    request = claim_request(new.id, lease=0.0)
    (job,) = await ledger.claim([request], SECONDS)
    assert job is not None
    await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
    assert await ledger.claim([request], SECONDS) == [None]


async def test_a_lease_that_still_runs_cannot_be_reaped(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    assert await ledger.expired_leases(10, SECONDS) == []
    lost = decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)
    assert await ledger.apply([lost], SECONDS) == [None]


async def _claimed_by(worker: WorkerSession, ledger: Ledger, lease: float = 60.0) -> Claimed:
    accepted = await accept_one(ledger, message())
    (job,) = await ledger.claim([claim_request(accepted.id, lease=lease)], SECONDS, worker.worker_id)
    assert job is not None
    return job


async def test_a_job_of_a_living_worker_is_not_taken_back(ledger: Ledger, worker: WorkerSession) -> None:
    assert await worker.held() and await worker.held()
    job = await _claimed_by(worker, ledger)
    assert await ledger.orphans(10, SECONDS) == []
    assert await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]


async def test_a_job_of_a_dead_worker_is_taken_back_and_accepted_late(ledger: Ledger, worker: WorkerSession) -> None:
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
    assert await ledger.apply([decide_outcome(job, ACCEPTED)], SECONDS) == [None]
    (late,) = await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS)
    assert late is not None and late.status is Status.SENT


async def test_a_lock_that_was_acquired_again_keeps_its_jobs(ledger: Ledger, worker: WorkerSession) -> None:
    await _claimed_by(worker, ledger)
    (orphan,) = await ledger.orphans(10, SECONDS)
    await worker.held()
    assert await ledger.apply([decide_lost(orphan, RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]
    assert await ledger.orphans(10, SECONDS) == []


async def test_an_expired_lease_of_a_dead_worker_is_no_orphan(ledger: Ledger, worker: WorkerSession) -> None:
    await _claimed_by(worker, ledger, lease=0.0)
    assert await ledger.orphans(10, SECONDS) == []
    assert len(await ledger.expired_leases(10, SECONDS)) == 1


async def test_a_claim_without_a_worker_has_its_lease_alone(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    assert await ledger.orphans(10, SECONDS) == []
    assert await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]


async def test_an_expired_lease_is_found_and_its_late_outcome_is_stale(ledger: Ledger) -> None:
    job = await claim_new(ledger, lease=0.0)
    (expired,) = await ledger.expired_leases(10, SECONDS)
    assert (expired.id, expired.version, expired.token) == (job.id, job.version, job.token)
    (step,) = await ledger.apply([decide_lost(expired, RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
    assert step is not None and step.status is Status.RETRYING
    assert await ledger.apply([decide_outcome(job, ACCEPTED)], SECONDS) == [None]
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None and (again.attempts, again.tries, again.lost_leases) == (0, 1, 1)


async def test_a_lease_is_renewed_by_its_holder_alone(ledger: Ledger) -> None:
    job = await claim_new(ledger, lease=0.0)
    assert await ledger.renew(job, 60, Progress(10, 100), SECONDS)
    assert await ledger.expired_leases(10, SECONDS) == []
    assert not await ledger.renew(replace(job, token=uuid4()), 60, Progress(), SECONDS)
    assert not await ledger.renew(replace(job, version=1), 60, Progress(), SECONDS)
    await ledger.apply([decide_outcome(job, ACCEPTED)], SECONDS)
    assert not await ledger.renew(job, 60, Progress(), SECONDS)


async def test_a_lease_that_was_renewed_in_between_is_not_reaped(ledger: Ledger) -> None:
    job = await claim_new(ledger, lease=0.0)
    (expired,) = await ledger.expired_leases(10, SECONDS)
    assert await ledger.renew(job, 60, Progress(), SECONDS)
    assert await ledger.apply([decide_lost(expired, RetryPolicy(), limit=3, jitter=0.0)], SECONDS) == [None]


async def test_a_late_acceptance_counts_until_the_next_claim(ledger: Ledger) -> None:
    for delivery in Delivery:
        accepted = await accept_one(ledger, message(delivery=delivery))
        (job,) = await ledger.claim([claim_request(accepted.id, lease=0.0)], SECONDS)
        assert job is not None
        late = LateAcceptance(job.id, job.token, 200, "m1")
        assert await ledger.accept_late([late], SECONDS) == [None]  # still processing: no business of this
        await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
        assert await ledger.accept_late([replace(late, token=uuid4())], SECONDS) == [None]
        first, again = await ledger.accept_late([late], SECONDS), await ledger.accept_late([late], SECONDS)
        assert first == again and first[0] is not None and first[0].status is Status.SENT
        assert await ledger.claim([claim_request(job.id, first[0].version - 1)], SECONDS) == [None]


async def test_a_late_acceptance_never_overrides_a_later_claim(ledger: Ledger) -> None:
    job = await claim_new(ledger, lease=0.0)
    (lost,) = await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.0)], SECONDS)
    assert lost is not None
    (later,) = await ledger.claim([claim_request(job.id, lost.version)], SECONDS)
    assert later is not None
    await ledger.apply([decide_outcome(later, Outcome(Verdict.RETRYABLE, "http_500", 500))], SECONDS)
    assert await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS) == [None]


async def test_a_lease_lost_before_the_work_began_is_not_counted(ledger: Ledger) -> None:
    job = await claim_new(ledger, lease=0.0)
    for started, counted in ((False, 1), (True, 2)):
        (lost,) = await ledger.expired_leases(10, SECONDS)
        (step,) = await ledger.apply([decide_lost(lost, RetryPolicy(), limit=9, jitter=0.0)], SECONDS)
        assert step is not None and step.status is Status.RETRYING
        (again,) = await ledger.claim([claim_request(job.id, step.version, lease=0.0)], SECONDS)
        assert again is not None and again.lost_leases == 1
        if started:
            assert await ledger.renew(again, 0.0, Progress(), SECONDS)
        (lost,) = await ledger.expired_leases(10, SECONDS)
        assert lost.started is started
        (step,) = await ledger.apply([decide_lost(lost, RetryPolicy(), limit=9, jitter=0.0)], SECONDS)
        assert step is not None
        (job_now,) = await ledger.claim([claim_request(job.id, step.version, lease=0.0)], SECONDS)
        assert job_now is not None and job_now.lost_leases == counted
