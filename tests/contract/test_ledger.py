"""The promises of claims and outcomes; the fake and Postgres pass the same suite.

The tests of Postgres' other promises are `tests/integration/test_ledger_*.py`.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status
from jobs.model import REPORTS, Claimed, Kind, NewJob
from jobs.outcome import NOT_STARTED
from tests.support.factories import ACCEPTED, claim_request, message, report, unclaimed
from tests.support.fakes import FakeLedger
from tests.support.ledger import SECONDS, accept_one, decide_outcome

AnyLedger = Ledger | FakeLedger


@pytest.fixture(params=["fake", "postgres"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[AnyLedger]:
    if request.param == "fake":
        yield FakeLedger()
        return
    pool = DatabasePool(request.getfixturevalue("database"), name="test", threads=2)
    yield Ledger(pool, grace_seconds=5)
    pool.close()


async def _accept(ledger: AnyLedger, new: NewJob) -> None:
    if isinstance(ledger, FakeLedger):
        ledger.jobs[new.id] = unclaimed(new)
    else:
        await accept_one(ledger, new)


async def _claim(ledger: AnyLedger, new: NewJob) -> Claimed:
    await _accept(ledger, new)
    (job,) = await ledger.claim([claim_request(new.id)], SECONDS)
    assert job is not None
    return job


async def test_a_claim_returns_the_job_one_version_further(ledger: AnyLedger) -> None:
    job = await _claim(ledger, message(body="a body"))
    assert (job.version, job.attempts, job.revision, job.body) == (2, 0, 0, "a body")


async def test_a_claim_of_another_version_or_of_no_job_is_stale(ledger: AnyLedger) -> None:
    new = message()
    await _accept(ledger, new)
    assert await ledger.claim([claim_request(new.id, 2), claim_request(uuid4(), 1)], SECONDS) == [None, None]


async def test_a_second_claim_of_the_same_version_is_stale(ledger: AnyLedger) -> None:
    job = await _claim(ledger, message())
    assert await ledger.claim([claim_request(job.id, 1)], SECONDS) == [None]


async def test_an_outcome_of_another_version_is_stale(ledger: AnyLedger) -> None:
    job = await _claim(ledger, message())
    step = decide_outcome(job, ACCEPTED)
    assert await ledger.apply([replace(step, version=1)], SECONDS) == [None]
    (sent,) = await ledger.apply([step], SECONDS)
    assert sent is not None and (sent.id, sent.status, sent.version) == (job.id, Status.SENT, 3)


async def test_a_released_job_is_claimed_at_its_new_version(ledger: AnyLedger) -> None:
    job = await _claim(ledger, message())
    (step,) = await ledger.apply([decide_outcome(job, NOT_STARTED)], SECONDS)
    assert step is not None and step.status is Status.QUEUED
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None and (again.version, again.attempts, again.tries) == (4, 0, 0)


async def test_a_report_is_claimed_like_a_message_and_completes(ledger: AnyLedger) -> None:
    job = await _claim(ledger, report())
    assert (job.queue, job.destination, job.body) == (REPORTS, None, None)
    (step,) = await ledger.apply([decide_outcome(job, ACCEPTED)], SECONDS)
    assert step is not None and (step.status, step.kind, step.publish) == (Status.COMPLETED, Kind.REPORT, False)
