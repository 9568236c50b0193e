"""Decisions: the transition that follows from an outcome. Pure, so every rule is a line in a test."""

from dataclasses import replace

from jobs.lifecycle import Cause, Status
from jobs.model import Attempt, Claimed, Delivery, Kind, LostLease, Route, Transition
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy, backoff_seconds, deferral_seconds

_CAUSES = {
    Verdict.ACCEPTED: Cause.ACCEPTED,
    Verdict.REJECTED: Cause.REJECTED,
    Verdict.RETRYABLE: Cause.RETRYABLE,
    Verdict.UNKNOWN: Cause.OUTCOME_UNKNOWN,
    Verdict.DEFERRED: Cause.RELEASED,
    Verdict.RELEASED: Cause.RELEASED,
}


def decide(job: Claimed, outcome: Outcome, policy: RetryPolicy, *, ran_seconds: float, jitter: float) -> Transition:
    """The transition after `outcome`, `ran_seconds` after the claim; `jitter` from [0, 1)."""
    cause = _CAUSES[outcome.verdict]
    if outcome.verdict is Verdict.RELEASED:
        return _reschedule(job, Status.QUEUED, cause, None, outcome.reason)
    deferred = outcome.verdict is Verdict.DEFERRED
    charged = not deferred or job.deferrals >= policy.deferrals
    cause = Cause.RETRYABLE if deferred and charged else cause
    attempt = Attempt(outcome.verdict, charged, outcome.reason, outcome.provider_code, ran_seconds, outcome.answer)
    if outcome.verdict is Verdict.ACCEPTED:
        status = Status.COMPLETED if job.queue.kind is Kind.REPORT else Status.SENT
        step = Transition(job.id, job.version, job.token, status, cause, attempt)
        return replace(step, provider_message_id=outcome.provider_message_id)
    if outcome.verdict is Verdict.REJECTED:
        return _dead_letter(job, Status.FAILED, cause, attempt, outcome.reason)
    if job.delivery is Delivery.AT_MOST_ONCE and not outcome.surely_not_sent:
        return _dead_letter(job, Status.UNKNOWN, Cause.OUTCOME_UNKNOWN, attempt, outcome.reason)
    if charged and job.attempts + 1 >= policy.attempts:
        return _dead_letter(job, Status.FAILED, cause, attempt, "attempts_exhausted")
    delay = backoff_seconds(policy, job.attempts + 1, jitter) if charged else 0.0
    if deferred:
        delay = max(delay, deferral_seconds(policy, outcome.retry_after_seconds, job.deferrals, jitter))
    if job.age_seconds + ran_seconds + delay > policy.deadline_seconds:
        return _dead_letter(job, Status.FAILED, cause if charged else Cause.RETRYABLE, attempt, "deadline_exceeded")
    return _reschedule(job, Status.RETRYING if charged else Status.QUEUED, cause, attempt, outcome.reason, delay)


def decide_lost(job: LostLease, policy: RetryPolicy, *, limit: int, jitter: float) -> Transition:
    """The transition of a job that has lost its `lost_leases + 1`-th lease. `limit` bounds the lost leases of one job.

    A lost lease is not charged: the attempt may never have begun. It does not count if it expired before its attempt began.
    """
    reason = "lease_lost" if job.started else "not_started"
    attempt = Attempt("lease_lost", charged=False, reason=reason)
    if not job.started:
        return _reschedule(job, Status.RETRYING, Cause.LEASE_LOST, attempt, reason)
    if job.delivery is Delivery.AT_MOST_ONCE:
        step = _dead_letter(job, Status.UNKNOWN, Cause.LEASE_LOST, attempt, reason)
    elif job.lost_leases + 1 >= limit:
        step = _dead_letter(job, Status.FAILED, Cause.LEASE_LOST, attempt, "worker_lost")
    else:
        delay = backoff_seconds(policy, job.lost_leases + 1, jitter)
        step = _reschedule(job, Status.RETRYING, Cause.LEASE_LOST, attempt, reason, delay)
    return replace(step, counts_as_lost=True)


def _reschedule(
    job: Claimed | LostLease, to: Status, cause: Cause, attempt: Attempt | None, reason: str | None, delay: float = 0.0
) -> Transition:
    step = Transition(job.id, job.version, job.token, to, cause, attempt, reason, delay_seconds=delay)
    return replace(step, route=Route.WORK, queue=job.queue.name)


def _dead_letter(job: Claimed | LostLease, to: Status, cause: Cause, attempt: Attempt, reason: str | None) -> Transition:
    step = Transition(job.id, job.version, job.token, to, cause, attempt, reason)
    return replace(step, route=Route.DEAD, queue=job.queue.dead)
