"""What each outcome means for a job: every row of the decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status, allowed
from jobs.model import LostLease, Route
from jobs.outcome import CUT_OFF, NOT_STARTED, Outcome, Verdict, from_http
from jobs.retry import RetryPolicy, backoff_seconds
from tests.making import ACCEPTED, SANDBOX, claimed, new_id

POLICY = RetryPolicy(attempts=3, base_seconds=1, cap_seconds=60, deadline_seconds=100)
RETRY = Outcome(Verdict.RETRYABLE, "http_500", 500)
FINAL = Outcome(Verdict.REJECTED, "http_400", 400)

ROWS = [
    # attempts so far, age, outcome, → status, reason, charged, route
    (0, 0.0, ACCEPTED, Status.SENT, None, True, None),
    (2, 99.0, ACCEPTED, Status.SENT, None, True, None),
    (0, 0.0, FINAL, Status.FAILED, "http_400", True, Route.DEAD),
    (0, 0.0, RETRY, Status.RETRYING, "http_500", True, Route.WORK),
    (1, 0.0, RETRY, Status.RETRYING, "http_500", True, Route.WORK),
    (2, 0.0, RETRY, Status.FAILED, "attempts_exhausted", True, Route.DEAD),
    (0, 99.9, RETRY, Status.FAILED, "deadline_exceeded", True, Route.DEAD),
    (0, 0.0, CUT_OFF, Status.RETRYING, "shutdown", True, Route.WORK),
    (2, 0.0, CUT_OFF, Status.FAILED, "attempts_exhausted", True, Route.DEAD),
    (2, 99.9, NOT_STARTED, Status.QUEUED, "not_started", False, Route.WORK),
]


@pytest.mark.parametrize(("attempts", "age", "outcome", "status", "reason", "charged", "route"), ROWS)
def test_decide(
    attempts: int, age: float, outcome: Outcome, status: Status, reason: str, charged: bool, route: Route | None
) -> None:
    job = claimed(attempts=attempts, age=age)
    step = decide(job, outcome, POLICY, ran_seconds=0.0, jitter=0.5)
    assert (step.to, step.reason, step.route) == (status, reason, route)
    assert (step.attempt is not None and step.attempt.charged) == charged
    assert (step.id, step.version, step.token) == (job.id, job.version, job.token)
    assert step.queue == {None: None, Route.WORK: "messages.sandbox.normal", Route.DEAD: "messages.dead"}[route]


@given(
    attempts=st.integers(0, 5),
    age=st.floats(0, 200),
    verdict=st.sampled_from(Verdict),
    jitter=st.floats(0, 1, exclude_max=True),
    ran=st.floats(0, 100),
)
def test_every_decision_is_in_the_table(attempts: int, age: float, verdict: Verdict, jitter: float, ran: float) -> None:
    step = decide(claimed(attempts, age), Outcome(verdict), POLICY, ran_seconds=ran, jitter=jitter)
    assert allowed(Status.PROCESSING, step.to, step.cause)
    assert step.delay_seconds >= 0
    assert (step.to is Status.RETRYING) or step.delay_seconds == 0


@pytest.mark.parametrize(
    ("lost", "status", "reason"), [(0, "retrying", "lease_lost"), (1, "retrying", "lease_lost"), (2, "failed", "worker_lost")]
)
def test_lost_leases_have_a_limit_of_their_own(lost: int, status: str, reason: str) -> None:
    job = LostLease(new_id(), 4, new_id(), SANDBOX, lost)
    step = decide_lost(job, POLICY, limit=3, jitter=0.5)
    assert (step.to, step.reason) == (status, reason)
    assert step.attempt is not None and not step.attempt.charged
    assert allowed(Status.PROCESSING, step.to, step.cause)


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
        ((408, 425, 429, 500, 502, 503, 504, 599), Verdict.RETRYABLE),
        ((301, 302, 304, 400, 401, 403, 404, 410, 422), Verdict.REJECTED),
    ],
)
def test_http_status_to_verdict(codes: tuple[int, ...], verdict: Verdict) -> None:
    assert {from_http(code).verdict for code in codes} == {verdict}


def test_the_idempotency_key_changes_with_the_revision_only() -> None:
    first, retried, requeued = claimed(), claimed(attempts=3), claimed(revision=2)
    assert first.idempotency_key == str(first.id)
    assert retried.idempotency_key == str(retried.id)
    assert requeued.idempotency_key == f"{requeued.id}-2"
