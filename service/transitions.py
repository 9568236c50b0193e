"""Transitions: a new job or an outcome is committed, and only then published and cached."""

import random
import time
from dataclasses import dataclass

import structlog

from infra.postgres.transitions.accept import Accepted, KeyReused
from infra.postgres.transitions.apply import Applied, LateAcceptance
from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Claimed, KnownStatus, LostLease, NewJob, Route, Transition
from jobs.outcome import Outcome
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from service.backlog import BacklogLimit
from service.batching import Batcher
from service.publishing import EagerPublisher, Outgoing
from service.statuses import Statuses

log = structlog.get_logger()


class KeyTaken(Exception):
    """The idempotency key belongs to another request."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Accepts new jobs. `timeout_seconds` bounds the wait for the commit."""

    accepts: Batcher[NewJob, Accepted | KeyReused]
    publisher: EagerPublisher
    statuses: Statuses
    backlog: BacklogLimit
    timeout_seconds: float

    async def accept(self, job: NewJob) -> Accepted:
        """Commit a job, then publish and cache it. An equal request under the same key returns the first result.

        Raises `BacklogFull`, `KeyTaken`, `Overloaded`, `BadData` if Postgres rejects a value, or `DeadlineExceeded` if Postgres
        did not confirm in time. After the last, the job may have been accepted.
        """
        started = time.monotonic()
        with self.backlog.admission(job.client_id):
            accepted = await self.accepts.submit(job, self.timeout_seconds)
        if isinstance(accepted, KeyReused):
            raise KeyTaken
        if not accepted.replayed:  # otherwise the first request has published it, or the relay will
            self.publisher.offer(Outgoing(Pointer(job.id, 1), Route.WORK, job.queue.name, started, None, job.traceparent))
            self.statuses.cache(KnownStatus(job.id, 1, Status.QUEUED, job.queue.kind, job.client_id, started))
            log.info("job.queued", id=str(job.id), version=1, queue=job.queue.name)
        return accepted


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records the outcomes of claimed jobs. `lost_leases`: the number that ends a job."""

    applies: Batcher[Transition, Applied | None]
    late: Batcher[LateAcceptance, Applied | None]
    publisher: EagerPublisher
    statuses: Statuses
    lost_leases: int

    def claimed(self, job: Claimed, at: float) -> None:
        """Cache a committed claim. `at`: monotonic seconds, before the claim."""
        log.info("job.processing", id=str(job.id), version=job.version, queue=job.queue.name)
        self.statuses.cache(KnownStatus(job.id, job.version, Status.PROCESSING, job.queue.kind, job.client_id, at))

    async def record(self, job: Claimed, outcome: Outcome, policy: RetryPolicy, *, ran_seconds: float) -> None:
        """Commit the outcome of a claimed job; retries while Postgres is unavailable."""
        transition = decide(job, outcome, policy, ran_seconds=ran_seconds, jitter=random.random())  # noqa: S311
        recorded = await self._apply(transition, queue=job.queue.name, attempt=job.attempts + 1, code=outcome.provider_code)
        if not recorded and transition.to is Status.SENT:  # the lease expired: the job is `unknown`, or waits for a retry
            started = time.monotonic()
            late = LateAcceptance(job.id, job.token, outcome.provider_code, outcome.provider_message_id)
            if (applied := await self.late.submit(late)) is not None:
                self._announce(applied, started, reason="late_acceptance", code=outcome.provider_code)

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None:
        """Commit that a job's lease has expired."""
        transition = decide_lost(job, policy, limit=self.lost_leases, jitter=random.random())  # noqa: S311
        await self._apply(transition, queue=job.queue.name, lost_leases=job.lost_leases + 1)

    async def _apply(self, transition: Transition, **logged: object) -> bool:
        started = time.monotonic()
        applied = await self.applies.submit(transition)
        if applied is None:
            log.warning("job.stale", id=str(transition.id), version=transition.version, dropped=transition.to)
            return False
        delay = transition.delay_seconds
        if applied.publish and delay == 0 and transition.route and transition.queue:
            pointer = Pointer(applied.id, applied.version)
            outgoing = Outgoing(pointer, transition.route, transition.queue, started, applied.headers, applied.traceparent)
            self.publisher.offer(outgoing)
        self._announce(applied, started, reason=transition.reason, retry_in=round(delay, 3) if delay else None, **logged)
        return True

    def _announce(self, applied: Applied, started: float, **logged: object) -> None:
        """Cache and log the new status, and publish the callback of the transition."""
        self.statuses.cache(KnownStatus(applied.id, applied.version, applied.status, applied.kind, applied.client_id, started))
        if applied.callback is not None:
            callback = Pointer(applied.callback, 1)
            self.publisher.offer(Outgoing(callback, Route.WORK, CALLBACKS.name, started, None, applied.traceparent))
        log.info(f"job.{applied.status}", id=str(applied.id), version=applied.version, **logged)
