"""The decision: what an outcome means for a job. Pure, so that every row of it is a line in a test."""

from jobs.lifecycle import Cause, Status
from jobs.model import Attempt, Claimed, Kind, LostLease, Route, Transition
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy, backoff_seconds

_CAUSES = {
    Verdict.ACCEPTED: Cause.ACCEPTED,
    Verdict.REJECTED: Cause.REJECTED,
    Verdict.RETRYABLE: Cause.RETRYABLE,
    Verdict.UNKNOWN: Cause.OUTCOME_UNKNOWN,
    Verdict.RELEASED: Cause.RELEASED,
}


def decide(job: Claimed, outcome: Outcome, policy: RetryPolicy, *, ran_seconds: float, jitter: float) -> Transition:
    """The transition that `outcome`, reached `ran_seconds` after the claim, calls for; `jitter` from [0, 1)."""
    cause = _CAUSES[outcome.verdict]
    if outcome.verdict is Verdict.RELEASED:
        return Transition(
            job.id, job.version, job.token, Status.QUEUED, cause, reason=outcome.reason, route=Route.WORK, queue=job.queue.name
        )
    attempt = Attempt(outcome.verdict, True, outcome.reason, outcome.provider_code, ran_seconds)
    if outcome.verdict is Verdict.ACCEPTED:
        return Transition(
            job.id,
            job.version,
            job.token,
            Status.COMPLETED if job.queue.kind is Kind.REPORT else Status.SENT,
            cause,
            attempt,
            provider_message_id=outcome.provider_message_id,
        )
    if outcome.verdict is Verdict.REJECTED:
        return _dead(job, cause, attempt, outcome.reason)
    charged = job.attempts + 1
    if charged >= policy.attempts:
        return _dead(job, cause, attempt, "attempts_exhausted")
    delay = backoff_seconds(policy, charged, jitter)
    if job.age_seconds + ran_seconds + delay > policy.deadline_seconds:
        return _dead(job, cause, attempt, "deadline_exceeded")
    return _retry(job, cause, attempt, outcome.reason, delay)


def decide_lost(job: LostLease, policy: RetryPolicy, *, limit: int, jitter: float) -> Transition:
    """The transition of a job whose worker let its lease run out for the `lost_leases + 1`-th time.

    Not charged as an attempt: the worker may never have begun. `limit` bounds how many workers one job may take down.
    """
    attempt = Attempt("lease_lost", charged=False, reason="lease_lost")
    if job.lost_leases + 1 >= limit:
        return _dead(job, Cause.LEASE_LOST, attempt, "worker_lost")
    delay = backoff_seconds(policy, job.lost_leases + 1, jitter)
    return _retry(job, Cause.LEASE_LOST, attempt, "lease_lost", delay)


def _retry(job: Claimed | LostLease, cause: Cause, attempt: Attempt, reason: str | None, delay: float) -> Transition:
    return Transition(
        job.id,
        job.version,
        job.token,
        Status.RETRYING,
        cause,
        attempt,
        reason,
        delay_seconds=delay,
        route=Route.WORK,
        queue=job.queue.name,
    )


def _dead(job: Claimed | LostLease, cause: Cause, attempt: Attempt, reason: str | None) -> Transition:
    return Transition(
        job.id,
        job.version,
        job.token,
        Status.FAILED,
        cause,
        attempt,
        reason,
        route=Route.DEAD,
        queue=job.queue.dead,
    )
