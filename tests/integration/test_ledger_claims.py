"""Claims and outcomes on Postgres: repetitions, versions, tokens, charges."""

from dataclasses import replace
from uuid import uuid4

from infra.postgres.ledger import Ledger
from jobs.lifecycle import Status
from jobs.model import Delivery
from jobs.outcome import NOT_STARTED, Outcome, Verdict, from_http
from tests.support.factories import ACCEPTED, claim_request, message
from tests.support.ledger import SECONDS, Store, accept_one, claim_new, decide_outcome


async def test_a_job_that_is_held_or_was_sent_cannot_be_claimed_at_its_own_version(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    assert await ledger.claim([claim_request(job.id, job.version)], SECONDS) == [None]
    (sent,) = await ledger.apply([decide_outcome(job, ACCEPTED)], SECONDS)
    assert sent is not None
    assert await ledger.claim([claim_request(job.id, sent.version)], SECONDS) == [None]


async def test_repeating_a_claim_under_its_token_finds_it_done(ledger: Ledger) -> None:
    new = message()
    await ledger.accept([new], SECONDS)
    request = claim_request(new.id)
    (first,) = await ledger.claim([request], SECONDS)
    (again,) = await ledger.claim([request], SECONDS)
    assert first is not None and again is not None
    assert replace(again, age_seconds=0) == replace(first, age_seconds=0)


async def test_repeating_an_outcome_under_its_token_finds_it_done(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    step = decide_outcome(job, ACCEPTED)
    first, again = await ledger.apply([step], SECONDS), await ledger.apply([step], SECONDS)
    assert first == again
    assert first[0] is not None and (first[0].status, first[0].version) == (Status.SENT, 3)


async def test_repeating_a_release_under_its_token_finds_it_done(ledger: Ledger) -> None:
    step = decide_outcome(await claim_new(ledger), NOT_STARTED)
    first, again = await ledger.apply([step], SECONDS), await ledger.apply([step], SECONDS)
    assert first == again
    assert first[0] is not None and first[0].status is Status.QUEUED


async def test_an_outcome_under_another_token_or_version_is_stale(ledger: Ledger) -> None:
    step = decide_outcome(await claim_new(ledger), ACCEPTED)
    foreign = [replace(step, token=uuid4()), replace(step, version=1)]
    for other in foreign:
        assert await ledger.apply([other], SECONDS) == [None]
    assert (await ledger.apply([step], SECONDS))[0] is not None


async def test_a_retry_is_charged_and_claimed_at_its_new_version(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    (step,) = await ledger.apply([decide_outcome(job, Outcome(Verdict.RETRYABLE, "http_500", 500))], SECONDS)
    assert step is not None and step.status is Status.RETRYING
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None
    assert (again.attempts, again.tries, again.version) == (1, 1, 4)


async def test_a_release_is_not_charged(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    (step,) = await ledger.apply([decide_outcome(job, NOT_STARTED)], SECONDS)
    assert step is not None and step.publish
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None and (again.attempts, again.tries) == (0, 0)


async def test_claiming_a_dead_letter_begins_a_new_revision(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    (dead,) = await ledger.apply([decide_outcome(job, Outcome(Verdict.REJECTED, "http_400", 400))], SECONDS)
    assert dead is not None and dead.status is Status.FAILED
    (again,) = await ledger.claim([claim_request(job.id, dead.version)], SECONDS)
    assert again is not None
    assert (again.revision, again.attempts, again.tries) == (1, 0, 0)
    assert again.idempotency_key == f"{job.id}-1"


async def test_only_what_must_be_published_is_in_the_outbox(store: Store) -> None:
    ledger = store.ledger
    job = await claim_new(ledger)
    (sent,) = await ledger.apply([decide_outcome(job, ACCEPTED)], SECONDS)
    other = await claim_new(ledger)
    (dead,) = await ledger.apply([decide_outcome(other, Outcome(Verdict.REJECTED, "http_400", 400))], SECONDS)
    assert sent is not None and not sent.publish
    assert dead is not None and dead.publish
    messages = store.rows(f"SELECT queue, version FROM outbox WHERE job_id = '{other.id}'")
    assert ("messages.dead", dead.version) in messages
    assert not store.rows(f"SELECT queue FROM outbox WHERE job_id = '{job.id}' AND version = {sent.version}")


async def test_a_deferred_job_waits_uncharged_and_can_be_repeated(ledger: Ledger) -> None:
    job = await claim_new(ledger)
    step = decide_outcome(job, from_http(429, None, 0.0))
    first, again = await ledger.apply([step], SECONDS), await ledger.apply([step], SECONDS)
    assert first == again and first[0] is not None and first[0].status is Status.QUEUED
    (again_claimed,) = await ledger.claim([claim_request(job.id, first[0].version)], SECONDS)
    assert again_claimed is not None and (again_claimed.attempts, again_claimed.tries) == (0, 1)


async def test_at_most_once_ends_as_unknown_and_keeps_its_key_when_claimed_again(ledger: Ledger) -> None:
    accepted = await accept_one(ledger, message(delivery=Delivery.AT_MOST_ONCE))
    (job,) = await ledger.claim([claim_request(accepted.id)], SECONDS)
    assert job is not None and job.delivery is Delivery.AT_MOST_ONCE
    (step,) = await ledger.apply([decide_outcome(job, Outcome(Verdict.UNKNOWN, "timeout"))], SECONDS)
    assert step is not None and (step.status, step.publish) == (Status.UNKNOWN, True)
    (again,) = await ledger.claim([claim_request(job.id, step.version)], SECONDS)
    assert again is not None
    assert (again.revision, again.idempotency_key) == (1, job.idempotency_key)
