"""The default policies outlast a provider's outage of hours; simulated with seeded jitter."""

import random
from dataclasses import replace

import pytest

from jobs.breaker import Breaker, BreakerPolicy, State
from jobs.decision import decide
from jobs.lifecycle import Status
from jobs.model import Claimed
from jobs.outcome import Outcome, Verdict, from_http
from jobs.retry import RetryPolicy, backoff_seconds
from service.provider_settings import BreakerSettings, RetrySettings
from tests.support.factories import ACCEPTED, claimed

HOUR = 3600.0
RETRY = RetryPolicy(**RetrySettings().model_dump())
BREAKER = BreakerPolicy(**BreakerSettings().model_dump())
REFUSED = Outcome(Verdict.DEFERRED, "no_connection", surely_not_sent=True, answered=False)
TIMEOUT = Outcome(Verdict.UNKNOWN, "timeout", answered=False)


def _send(seed: int, failure: Outcome, outage: float, policy: RetryPolicy = RETRY) -> tuple[Status, Claimed, float]:
    """Send one message during an outage. Returns its last status, its job and the seconds from its acceptance to its end."""
    draw, now, breaker, job = random.Random(seed), 0.0, Breaker(BREAKER), claimed()
    while True:
        if breaker.state(now) is State.OPEN:  # the queue is paused; the message waits in it
            now = breaker.until or now
        outcome = failure if now < outage else ACCEPTED
        breaker = breaker.after(outcome, now)
        step = decide(replace(job, age_seconds=now), outcome, policy, ran_seconds=0, jitter=draw.random())
        if step.attempt is None or step.to not in (Status.QUEUED, Status.RETRYING):
            return step.to, job, now
        job = replace(job, tries=job.tries + 1, attempts=job.attempts + step.attempt.charged)
        now += step.delay_seconds


def test_the_delays_of_all_attempts_exceed_two_hours_in_99_of_100_messages() -> None:
    draw = random.Random(1)
    totals = sorted(
        sum(backoff_seconds(RETRY, failed, draw.random()) for failed in range(1, RETRY.attempts)) for _ in range(5000)
    )
    assert totals[50] > 2 * HOUR
    assert 3.9 * HOUR < sum(totals) / len(totals) < 4.2 * HOUR
    assert totals[-1] < RETRY.deadline_seconds


@pytest.mark.parametrize("seed", range(50))
def test_three_hours_of_refused_connections_charge_no_attempt_and_the_message_is_sent_within_the_cap(seed: int) -> None:
    status, job, seconds = _send(seed, REFUSED, 3 * HOUR)
    assert (status, job.attempts) == (Status.SENT, 0)
    assert job.tries <= RETRY.deferrals
    assert 3 * HOUR <= seconds <= 3 * HOUR + RETRY.cap_seconds


@pytest.mark.parametrize("seed", range(20))
def test_a_lower_cap_sends_sooner_after_the_recovery(seed: int) -> None:
    """The cap bounds the delay of deferrals, too. A low cap needs more of them for the same outage."""
    policy = replace(RETRY, cap_seconds=30.0, deferrals=1000)
    status, job, seconds = _send(seed, REFUSED, 3 * HOUR, policy)
    assert (status, job.attempts) == (Status.SENT, 0)
    assert seconds <= 3 * HOUR + policy.cap_seconds + BREAKER.cap_seconds


@pytest.mark.parametrize("failure", [from_http(500), from_http(503), TIMEOUT])
@pytest.mark.parametrize("seed", range(20))
def test_two_hours_of_errors_or_timeouts_fail_no_message(failure: Outcome, seed: int) -> None:
    status, job, seconds = _send(seed, failure, 2 * HOUR)
    assert (status, job.attempts > 0) == (Status.SENT, True)
    assert seconds <= 2 * HOUR + RETRY.cap_seconds


def test_an_outage_without_end_fails_within_the_deadline() -> None:
    refused, failed = ([_send(seed, failure, float("inf")) for seed in range(20)] for failure in (REFUSED, from_http(500)))
    assert {status for status, _, _ in refused + failed} == {Status.FAILED}
    assert all(13 * HOUR < seconds < 17 * HOUR for _, _, seconds in refused)
    assert all(2 * HOUR < seconds < 8 * HOUR for _, _, seconds in failed)
