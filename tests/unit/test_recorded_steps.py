"""Every field of each transition: status, cause, attempt, reason, delay and copy, for every kind of outcome."""

from dataclasses import replace
from http import HTTPStatus

import pytest

from jobs.decision import decide, decide_lost
from jobs.lifecycle import Cause, Status
from jobs.model import (
    CALLBACKS,
    REPORTS,
    Attempt,
    Claimed,
    Delivery,
    LostLease,
    Priority,
    Route,
    Transition,
    WorkQueue,
    message_queue,
    work_queues,
)
from jobs.outcome import NOT_STARTED, Outcome, Verdict, from_callback, from_http
from jobs.retry import RetryPolicy, backoff_seconds, schedule_policy
from tests.support.factories import SANDBOX, as_lost, claimed

POLICY = RetryPolicy(attempts=3, base_seconds=8, cap_seconds=60, deadline_seconds=100)


def _step(job: Claimed, to: Status, cause: Cause, attempt: Attempt | None, **more: object) -> Transition:
    return replace(Transition(job.id, job.version, job.token, to, cause, attempt), **more)  # type: ignore[arg-type]


def _decided(job: Claimed, outcome: Outcome, ran: float = 2.0) -> Transition:
    return decide(job, outcome, POLICY, ran_seconds=ran, jitter=0.5)


def test_an_acceptance_records_the_provider_s_code_and_message_id() -> None:
    job = claimed()
    accepted = Outcome(Verdict.ACCEPTED, None, 202, "m1")
    attempt = Attempt(Verdict.ACCEPTED, True, None, 202, 2.0)
    assert _decided(job, accepted) == _step(job, Status.SENT, Cause.ACCEPTED, attempt, provider_message_id="m1")


def test_a_report_completes_and_a_callback_is_sent() -> None:
    done = Outcome(Verdict.ACCEPTED)
    statuses = [_decided(claimed(queue=queue), done).to for queue in (REPORTS, CALLBACKS, SANDBOX)]
    assert statuses == [Status.COMPLETED, Status.SENT, Status.SENT]


def test_a_retryable_outcome_waits_for_its_backoff() -> None:
    job, failed = claimed(attempts=1), Outcome(Verdict.RETRYABLE, "http_500", 500)
    attempt = Attempt(Verdict.RETRYABLE, True, "http_500", 500, 2.0)
    again = {"reason": "http_500", "delay_seconds": 8.0, "route": Route.WORK, "queue": SANDBOX.name}
    assert _decided(job, failed) == _step(job, Status.RETRYING, Cause.RETRYABLE, attempt, **again)


def test_a_release_is_due_at_once_without_an_attempt() -> None:
    job = claimed()
    again = {"reason": "not_started", "delay_seconds": 0.0, "route": Route.WORK, "queue": SANDBOX.name}
    assert _decided(job, NOT_STARTED) == _step(job, Status.QUEUED, Cause.RELEASED, None, **again)


def test_an_unknown_outcome_of_a_careful_message_is_a_dead_letter_with_its_attempt() -> None:
    job = claimed(delivery=Delivery.AT_MOST_ONCE)
    attempt = Attempt(Verdict.UNKNOWN, True, "timeout", None, 2.0)
    dead = {"reason": "timeout", "route": Route.DEAD, "queue": "messages.dead"}
    unknown = _step(job, Status.UNKNOWN, Cause.OUTCOME_UNKNOWN, attempt, **dead)
    assert _decided(job, Outcome(Verdict.UNKNOWN, "timeout")) == unknown


@pytest.mark.parametrize(("age", "ran", "status"), [(90.0, 2.0, Status.RETRYING), (90.0, 7.0, Status.FAILED)])
def test_the_time_of_the_attempt_counts_towards_the_deadline(age: float, ran: float, status: Status) -> None:
    step = _decided(claimed(age=age), Outcome(Verdict.RETRYABLE, "http_500", 500), ran)
    assert (step.to, step.cause) == (status, Cause.RETRYABLE)


def test_a_deferral_past_the_deadline_fails_as_retryable() -> None:
    step = _decided(claimed(age=99.0), from_http(429, None, 20.0))
    assert (step.to, step.cause, step.reason) == (Status.FAILED, Cause.RETRYABLE, "deadline_exceeded")


def test_a_lease_lost_before_the_work_began_is_retried_at_once_and_not_counted() -> None:
    job = claimed(lost=2, delivery=Delivery.AT_MOST_ONCE)
    attempt = Attempt("lease_lost", False, "not_started")
    again = {"reason": "not_started", "route": Route.WORK, "queue": SANDBOX.name}
    step = decide_lost(replace(as_lost(job), started=False), POLICY, limit=3, jitter=0.5)
    assert step == _step(job, Status.RETRYING, Cause.LEASE_LOST, attempt, **again)
    assert not step.counts_as_lost


def _lost(job: Claimed) -> tuple[LostLease, Attempt]:
    return as_lost(job), Attempt("lease_lost", False, "lease_lost")


def test_a_lost_lease_is_retried_after_a_backoff_by_lost_leases() -> None:
    job = claimed(lost=1)
    lost, attempt = _lost(job)
    again = {"reason": "lease_lost", "delay_seconds": 8.0, "route": Route.WORK, "queue": SANDBOX.name, "counts_as_lost": True}
    step = decide_lost(lost, POLICY, limit=3, jitter=0.5)
    assert step == _step(job, Status.RETRYING, Cause.LEASE_LOST, attempt, **again)
    assert step.counts_as_lost


@pytest.mark.parametrize(
    ("delivery", "to", "reason"),
    [(Delivery.AT_LEAST_ONCE, Status.FAILED, "worker_lost"), (Delivery.AT_MOST_ONCE, Status.UNKNOWN, "lease_lost")],
)
def test_a_lost_lease_too_many_is_a_dead_letter(delivery: Delivery, to: Status, reason: str) -> None:
    job = claimed(lost=2, delivery=delivery)
    lost, attempt = _lost(job)
    dead = {"reason": reason, "route": Route.DEAD, "queue": "messages.dead", "counts_as_lost": True}
    assert decide_lost(lost, POLICY, limit=3, jitter=0.5) == _step(job, to, Cause.LEASE_LOST, attempt, **dead)


@pytest.mark.parametrize(
    ("code", "wait", "outcome"),
    [
        (200, None, Outcome(Verdict.ACCEPTED, None, 200, "m1")),
        (300, None, Outcome(Verdict.REJECTED, "http_300", 300)),
        (400, None, Outcome(Verdict.REJECTED, "http_400", 400)),
        (408, None, Outcome(Verdict.RETRYABLE, "http_408", 408)),
        (500, None, Outcome(Verdict.RETRYABLE, "http_500", 500)),
        (503, None, Outcome(Verdict.RETRYABLE, "http_503", 503)),
        (503, 5.0, Outcome(Verdict.DEFERRED, "http_503", 503, surely_not_sent=True, retry_after_seconds=5.0)),
        (429, None, Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True)),
        (500, 5.0, Outcome(Verdict.RETRYABLE, "http_500", 500)),
        (520, None, Outcome(Verdict.RETRYABLE, "http_5xx", 520)),
    ],
)
def test_the_outcome_of_a_provider_s_status_in_full(code: int, wait: float | None, outcome: Outcome) -> None:
    assert from_http(code, "m1", wait) == outcome


@pytest.mark.parametrize(
    ("code", "wait", "outcome"),
    [
        (200, None, Outcome(Verdict.ACCEPTED, None, 200)),
        (299, None, Outcome(Verdict.ACCEPTED, None, 299)),
        (199, None, Outcome(Verdict.RETRYABLE, "http_1xx", 199)),
        (300, None, Outcome(Verdict.RETRYABLE, "http_300", 300)),
        (404, None, Outcome(Verdict.RETRYABLE, "http_404", 404)),
        (410, None, Outcome(Verdict.REJECTED, "http_410", 410)),
        (503, None, Outcome(Verdict.RETRYABLE, "http_503", 503)),
        (503, 5.0, Outcome(Verdict.DEFERRED, "http_503", 503, surely_not_sent=True, retry_after_seconds=5.0)),
        (429, None, Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True)),
        (429, 5.0, Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True, retry_after_seconds=5.0)),
    ],
)
def test_the_outcome_of_a_receiver_s_status_in_full(code: int, wait: float | None, outcome: Outcome) -> None:
    assert from_callback(code, wait) == outcome


def test_a_receiver_cannot_choose_more_reasons_than_there_are_registered_statuses_and_classes() -> None:
    outcomes = [from_callback(code) for code in range(1000)]
    reasons = {outcome.reason for outcome in outcomes if outcome.verdict is not Verdict.ACCEPTED}
    assert {"http_404", "http_4xx", "http_9xx"} <= reasons and len(reasons) <= len(HTTPStatus) + 10
    assert from_callback(499) == Outcome(Verdict.RETRYABLE, "http_4xx", 499)


def test_a_schedule_is_followed_to_a_tenth_and_its_last_delay_repeats() -> None:
    policy = schedule_policy((5.0, 60.0), 100.0)
    assert (policy.attempts, policy.deadline_seconds) == (3, 100.0)
    delays = [backoff_seconds(policy, charged, jitter) for charged, jitter in ((1, 0.0), (1, 0.5), (2, 1.0), (9, 0.5))]
    assert delays == pytest.approx([4.5, 5.0, 66.0, 60.0])


def test_an_installation_has_a_queue_for_each_provider_and_priority_and_for_each_other_kind() -> None:
    names = [queue.name for queue in work_queues(["a", "b"])]
    assert names == ["messages.a.high", "messages.a.normal", "messages.b.high", "messages.b.normal", "reports", "callbacks"]
    assert message_queue("a", Priority.HIGH).name == "messages.a.high" and message_queue("a").name == "messages.a.normal"
    assert WorkQueue(message_queue("a").kind, "a") == message_queue("a")
