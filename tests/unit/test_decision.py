"""The decision of each outcome: every row of the table."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.decision import decide, decide_lost
from jobs.lifecycle import TRANSITIONS, Edge, Status
from jobs.model import Delivery, LostLease, Route, Transition
from jobs.outcome import NOT_STARTED, UNKNOWN_AT_SHUTDOWN, Outcome, Verdict, from_http
from jobs.retry import LONGEST_RETRY_AFTER, RetryPolicy, backoff_seconds, retry_after_seconds
from tests.support.factories import ACCEPTED, SANDBOX, claimed, new_id

POLICY = RetryPolicy(attempts=3, base_seconds=1, cap_seconds=60, deadline_seconds=100)
RETRY = Outcome(Verdict.RETRYABLE, "http_500", 500)
FINAL = Outcome(Verdict.REJECTED, "http_400", 400)

LOST_ANSWER = Outcome(Verdict.UNKNOWN, "timeout")
NOT_SENT = Outcome(Verdict.RETRYABLE, "no_connection", surely_not_sent=True, answered=False)  # of a callback
NO_CONNECTION = replace(NOT_SENT, verdict=Verdict.DEFERRED)  # of a provider
WAIT = Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True, retry_after_seconds=20)
PATIENCE = Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True)
AT_ONCE = Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True, retry_after_seconds=0)

ROWS = [
    # attempts so far, age, outcome, → status, reason, charged, route
    (0, 0.0, ACCEPTED, Status.SENT, None, True, None),
    (2, 99.0, ACCEPTED, Status.SENT, None, True, None),
    (0, 0.0, FINAL, Status.FAILED, "http_400", True, Route.DEAD),
    (0, 0.0, RETRY, Status.RETRYING, "http_500", True, Route.WORK),
    (1, 0.0, RETRY, Status.RETRYING, "http_500", True, Route.WORK),
    (2, 0.0, RETRY, Status.FAILED, "attempts_exhausted", True, Route.DEAD),
    (0, 99.9, RETRY, Status.FAILED, "deadline_exceeded", True, Route.DEAD),
    (0, 0.0, UNKNOWN_AT_SHUTDOWN, Status.RETRYING, "shutdown", True, Route.WORK),
    (2, 0.0, UNKNOWN_AT_SHUTDOWN, Status.FAILED, "attempts_exhausted", True, Route.DEAD),
    (2, 99.9, NOT_STARTED, Status.QUEUED, "not_started", False, Route.WORK),
    (2, 0.0, WAIT, Status.QUEUED, "http_429", False, Route.WORK),
    (2, 0.0, PATIENCE, Status.QUEUED, "http_429", False, Route.WORK),
    (2, 0.0, NO_CONNECTION, Status.QUEUED, "no_connection", False, Route.WORK),
    (0, 90.0, WAIT, Status.FAILED, "deadline_exceeded", False, Route.DEAD),
    (0, 99.9, NO_CONNECTION, Status.FAILED, "deadline_exceeded", False, Route.DEAD),
]

# At most once: retried only if the message was provably not sent.
CAREFUL_ROWS = [
    (0, ACCEPTED, Status.SENT, None),
    (0, FINAL, Status.FAILED, "http_400"),
    (0, RETRY, Status.UNKNOWN, "http_500"),
    (0, Outcome(Verdict.RETRYABLE, "http_408", 408), Status.UNKNOWN, "http_408"),
    (0, LOST_ANSWER, Status.UNKNOWN, "timeout"),
    (0, UNKNOWN_AT_SHUTDOWN, Status.UNKNOWN, "shutdown"),
    (0, NOT_SENT, Status.RETRYING, "no_connection"),
    (2, NOT_SENT, Status.FAILED, "attempts_exhausted"),
    (2, WAIT, Status.QUEUED, "http_429"),
    (2, NO_CONNECTION, Status.QUEUED, "no_connection"),
    (0, NOT_STARTED, Status.QUEUED, "not_started"),
]


@pytest.mark.parametrize(("attempts", "age", "outcome", "status", "reason", "charged", "route"), ROWS)
def test_decide(
    attempts: int, age: float, outcome: Outcome, status: Status, reason: str, charged: bool, route: Route | None
) -> None:
    job = claimed(attempts=attempts, age=age)
    step = decide(job, outcome, POLICY, ran_seconds=0.0, jitter=0.5)
    assert (step.to, step.reason, step.route) == (status, reason, route)
    assert (step.attempt is not None and step.attempt.charged) == charged
    assert (step.attempt is None) == (outcome.verdict is Verdict.RELEASED)
    assert step.attempt is None or (step.attempt.reason, step.attempt.provider_code) == (outcome.reason, outcome.provider_code)
    assert (step.id, step.version, step.token) == (job.id, job.version, job.token)
    assert step.queue == {None: None, Route.WORK: "messages.sandbox.normal", Route.DEAD: "messages.dead"}[route]


@pytest.mark.parametrize(("attempts", "outcome", "status", "reason"), CAREFUL_ROWS)
def test_decide_at_most_once(attempts: int, outcome: Outcome, status: Status, reason: str | None) -> None:
    job = claimed(attempts=attempts, delivery=Delivery.AT_MOST_ONCE)
    step = decide(job, outcome, POLICY, ran_seconds=0.0, jitter=0.5)
    assert (step.to, step.reason) == (status, reason)
    assert Edge(Status.PROCESSING, step.to, step.cause) in TRANSITIONS
    assert (step.route is Route.DEAD) == (status in (Status.FAILED, Status.UNKNOWN))


@pytest.mark.parametrize(("outcome", "low", "high"), [(WAIT, 20, 22), (PATIENCE, 1, 2), (AT_ONCE, 1, 2), (RETRY, 0, 1)])
@given(jitter=st.floats(0, 1, exclude_max=True))
def test_the_provider_is_retried_at_its_retry_after_and_not_before(
    outcome: Outcome, low: float, high: float, jitter: float
) -> None:
    assert low <= decide(claimed(), outcome, POLICY, ran_seconds=0, jitter=jitter).delay_seconds <= high


@pytest.mark.parametrize(
    ("deferrals", "retry_after", "seconds"),
    [(0, None, 1), (0, 0.0, 1), (1, 0.0, 2), (5, 0.0, 32), (5, 10.0, 32), (5, 90.0, 90), (9, None, 512), (40, 0.0, 512)],
)
def test_deferrals_back_off_from_a_floor_and_a_longer_request_wins(
    deferrals: int, retry_after: float | None, seconds: float
) -> None:
    """Charged attempts and lost leases do not count."""
    job = replace(claimed(attempts=2), tries=3 + deferrals, lost_leases=1)
    policy = RetryPolicy(deadline_seconds=86_400)
    for outcome in (
        replace(PATIENCE, retry_after_seconds=retry_after),
        replace(PATIENCE, reason="host_busy", retry_after_seconds=retry_after),
    ):
        assert decide(job, outcome, policy, ran_seconds=0, jitter=0).delay_seconds == seconds
        assert seconds < decide(job, outcome, policy, ran_seconds=0, jitter=0.9).delay_seconds <= 2 * seconds


@pytest.mark.parametrize(("cap", "low", "high"), [(100.0, 50.0, 100.0), (1.0, 1.0, 2.0), (3600.0, 512.0, 1024.0)])
def test_the_cap_bounds_the_backoff_of_deferrals_down_to_the_floor(cap: float, low: float, high: float) -> None:
    policy = RetryPolicy(cap_seconds=cap)
    job = replace(claimed(), tries=20)
    delays = [decide(job, NO_CONNECTION, policy, ran_seconds=0, jitter=jitter).delay_seconds for jitter in (0.0, 1.0)]
    assert delays == [low, high]
    assert decide(job, WAIT, replace(policy, cap_seconds=1), ran_seconds=0, jitter=0).delay_seconds == 20  # as requested


@pytest.mark.parametrize("delivery", Delivery)
def test_after_its_limit_of_deferrals_each_one_is_charged_until_the_attempts_are_exhausted(delivery: Delivery) -> None:
    policy = RetryPolicy(attempts=3, base_seconds=1, deadline_seconds=1e9, deferrals=4)
    steps: list[Transition] = []
    job = claimed(delivery=delivery)
    while not steps or steps[-1].to is not Status.FAILED:
        steps.append(decide(job, AT_ONCE, policy, ran_seconds=0, jitter=0.5))
        attempt = steps[-1].attempt
        assert attempt is not None and len(steps) < 20 and Edge(Status.PROCESSING, steps[-1].to, steps[-1].cause) in TRANSITIONS
        job = replace(job, tries=job.tries + 1, attempts=job.attempts + attempt.charged)
    assert [step.to for step in steps] == [Status.QUEUED] * 4 + [Status.RETRYING] * 2 + [Status.FAILED]
    assert steps[-1].reason == "attempts_exhausted"
    assert all(step.delay_seconds >= 1 for step in steps[:-1])


@given(
    attempts=st.integers(0, 5),
    delivery=st.sampled_from(Delivery),
    age=st.floats(0, 200),
    verdict=st.sampled_from(Verdict),
    jitter=st.floats(0, 1, exclude_max=True),
    ran=st.floats(0, 100),
)
def test_every_decision_is_in_the_table(
    attempts: int, delivery: Delivery, age: float, verdict: Verdict, jitter: float, ran: float
) -> None:
    step = decide(claimed(attempts, age, delivery=delivery), Outcome(verdict), POLICY, ran_seconds=ran, jitter=jitter)
    assert Edge(Status.PROCESSING, step.to, step.cause) in TRANSITIONS
    assert step.delay_seconds >= 0
    assert step.to in (Status.RETRYING, Status.QUEUED) or step.delay_seconds == 0


@pytest.mark.parametrize(
    ("lost", "delivery", "status", "reason"),
    [
        (0, Delivery.AT_LEAST_ONCE, "retrying", "lease_lost"),
        (1, Delivery.AT_LEAST_ONCE, "retrying", "lease_lost"),
        (2, Delivery.AT_LEAST_ONCE, "failed", "worker_lost"),
        (0, Delivery.AT_MOST_ONCE, "unknown", "lease_lost"),
    ],
)
def test_lost_leases_have_a_limit_of_their_own(lost: int, delivery: Delivery, status: str, reason: str) -> None:
    job = LostLease(new_id(), 4, new_id(), SANDBOX, delivery, lost)
    step = decide_lost(job, POLICY, limit=3, jitter=0.5)
    assert (step.to, step.reason) == (status, reason)
    assert step.attempt is not None and not step.attempt.charged
    assert Edge(Status.PROCESSING, step.to, step.cause) in TRANSITIONS


@pytest.mark.parametrize(
    ("charged", "jitter", "seconds"),
    [(1, 1.0, 1), (2, 1.0, 2), (3, 1.0, 4), (4, 1.0, 8), (7, 1.0, 60), (10_000, 1.0, 60), (3, 0.0, 0), (3, 0.25, 1)],
)
def test_backoff_schedule(charged: int, jitter: float, seconds: float) -> None:
    assert backoff_seconds(POLICY, charged, jitter) == seconds


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ((200, 201, 202, 204, 299), Verdict.ACCEPTED),
        ((408, 425, 500, 502, 503, 504, 599), Verdict.RETRYABLE),
        ((429,), Verdict.DEFERRED),
        ((301, 302, 304, 400, 401, 403, 404, 410, 422), Verdict.REJECTED),
    ],
)
def test_http_status_to_verdict(codes: tuple[int, ...], verdict: Verdict) -> None:
    assert {from_http(code).verdict for code in codes} == {verdict}


def test_a_503_with_retry_after_defers_the_message() -> None:
    outcome = from_http(503, None, 7.0)
    assert (outcome.verdict, outcome.surely_not_sent, outcome.retry_after_seconds) == (Verdict.DEFERRED, True, 7.0)


NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("999999999999999999999999", LONGEST_RETRY_AFTER),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 11:59:00 GMT", 0),
        ("Sat, 21 Nov 2099 11:59:00 GMT", LONGEST_RETRY_AFTER),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@given(st.text())
def test_no_retry_after_breaks_us(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER


def test_the_idempotency_key_changes_with_the_revision_only() -> None:
    first, retried, requeued = claimed(), claimed(attempts=3), claimed(revision=2)
    assert first.idempotency_key == str(first.id)
    assert retried.idempotency_key == str(retried.id)
    assert requeued.idempotency_key == f"{requeued.id}-2"
