"""Callbacks on Postgres: each final status creates one in the same statement."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

from infra.postgres.ledger import Ledger
from infra.postgres.transitions.apply import LateAcceptance
from jobs.decision import decide_lost
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Delivery, NewJob
from jobs.outcome import NOT_STARTED, Outcome, Verdict
from jobs.retry import RetryPolicy
from tests.support.factories import ACCEPTED, as_lost, claim_request, message, report
from tests.support.ledger import SECONDS, accept_one, decide_outcome

URL = "https://receiver.example/hook"


async def _event(ledger: Ledger, callback: UUID | None) -> dict[str, Any]:
    """The event of a callback, from its claim."""
    assert callback is not None
    (job,) = await ledger.claim([claim_request(callback)], SECONDS)
    assert job is not None and (job.queue, job.destination) == (CALLBACKS, URL)
    event = json.loads(job.body or "")
    return {"type": event["type"], **{name: event["data"][name] for name in ("id", "status", "sequence")}}


def _with_callback(new: NewJob) -> NewJob:
    return replace(new, callback_url=URL)


async def test_each_end_of_a_job_makes_a_callback_in_the_same_step(ledger: Ledger) -> None:
    ends = [
        (message(), Outcome(Verdict.ACCEPTED, None, 200), "message.sent"),
        (message(), Outcome(Verdict.REJECTED, "http_400", 400), "message.failed"),
        (message(delivery=Delivery.AT_MOST_ONCE), Outcome(Verdict.UNKNOWN, "timeout"), "message.unknown"),
        (report(), Outcome(Verdict.ACCEPTED), "report.completed"),
        (report(), Outcome(Verdict.REJECTED, "bad_data"), "report.failed"),
    ]
    for new, outcome, type_ in ends:
        id_ = (await accept_one(ledger, _with_callback(new))).id
        (job,) = await ledger.claim([claim_request(id_)], SECONDS)
        assert job is not None
        (step,) = await ledger.apply([decide_outcome(job, outcome)], SECONDS)
        assert step is not None
        status = type_.partition(".")[2]
        assert await _event(ledger, step.callback) == {"type": type_, "id": str(id_), "status": status, "sequence": 3}


async def test_no_callback_without_a_final_status_or_a_callback_url(ledger: Ledger) -> None:
    for new, outcome in (
        (_with_callback(message()), Outcome(Verdict.RETRYABLE, "http_500", 500)),
        (_with_callback(message()), NOT_STARTED),
        (message(), Outcome(Verdict.ACCEPTED, None, 200)),
    ):
        id_ = (await accept_one(ledger, new)).id
        (job,) = await ledger.claim([claim_request(id_)], SECONDS)
        assert job is not None
        (step,) = await ledger.apply([decide_outcome(job, outcome)], SECONDS)
        assert step is not None and step.callback is None


async def test_a_callback_makes_no_callback(ledger: Ledger) -> None:
    id_ = (await accept_one(ledger, _with_callback(message()))).id
    (job,) = await ledger.claim([claim_request(id_)], SECONDS)
    assert job is not None
    (step,) = await ledger.apply([decide_outcome(job, ACCEPTED)], SECONDS)
    assert step is not None and step.callback is not None
    (callback,) = await ledger.claim([claim_request(step.callback)], SECONDS)
    assert callback is not None
    (last,) = await ledger.apply([decide_outcome(callback, ACCEPTED)], SECONDS)
    assert last is not None and (last.status, last.callback) == (Status.SENT, None)


async def test_a_late_acceptance_tells_again_with_a_greater_sequence(ledger: Ledger) -> None:
    new = _with_callback(message(delivery=Delivery.AT_MOST_ONCE))
    await accept_one(ledger, new)
    (job,) = await ledger.claim([claim_request(new.id, lease=0.0)], SECONDS)
    assert job is not None
    (unknown,) = await ledger.apply([decide_lost(as_lost(job), RetryPolicy(), limit=3, jitter=0.5)], SECONDS)
    (late,) = await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS)
    assert unknown is not None and late is not None
    events = [await _event(ledger, unknown.callback), await _event(ledger, late.callback)]
    assert [(each["type"], each["sequence"]) for each in events] == [("message.unknown", 3), ("message.sent", 4)]
    assert (await ledger.accept_late([LateAcceptance(job.id, job.token, 200, None)], SECONDS))[0] is not None
