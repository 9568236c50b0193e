"""Recording: an outcome becomes a transition, the transition commits, and only then is it published and cached."""

import random
import time

import structlog

from infra.postgres.transitions.apply import Applied, LateAcceptance
from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Claimed, KnownStatus, LostLease, Route, Transition
from jobs.outcome import Outcome
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from service.announcing import Announcer
from service.batching import Batcher

log = structlog.get_logger()


class Recorder:
    """Applies transitions to the ledger and announces them."""

    def __init__(
        self,
        applies: Batcher[Transition, Applied | None],
        late: Batcher[LateAcceptance, Applied | None],
        announcer: Announcer,
        *,
        lost_leases: int,
    ):
        self._applies = applies
        self._late = late
        self._announcer = announcer
        self._lost_leases = lost_leases

    def claimed(self, job: Claimed, at: float) -> None:
        """Announce a committed claim. `at`: monotonic seconds, before the claim."""
        log.info("job.processing", id=str(job.id), version=job.version, queue=job.queue.name)
        self._announcer.cache(KnownStatus(job.id, job.version, Status.PROCESSING, job.queue.kind, job.client_id, at))

    async def record(self, job: Claimed, outcome: Outcome, policy: RetryPolicy, *, ran_seconds: float) -> None:
        """Commit the outcome of a claimed job; retries while Postgres is unavailable."""
        transition = decide(job, outcome, policy, ran_seconds=ran_seconds, jitter=random.random())  # noqa: S311
        recorded = await self._apply(transition, queue=job.queue.name, attempt=job.attempts + 1, code=outcome.provider_code)
        if not recorded and transition.to is Status.SENT:
            await self._accept_late(LateAcceptance(job.id, job.token, outcome.provider_code, outcome.provider_message_id))

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None:
        """Commit that a job's lease has expired."""
        transition = decide_lost(job, policy, limit=self._lost_leases, jitter=random.random())  # noqa: S311
        await self._apply(transition, queue=job.queue.name, lost_leases=job.lost_leases + 1)

    async def _accept_late(self, late: LateAcceptance) -> None:
        """Record an acceptance after the lease expired: the job is `unknown`, or waits for a retry."""
        started = time.monotonic()
        applied = await self._late.submit(late)
        if applied is not None:
            self._announce(applied, started)
            log.info("job.sent", id=str(applied.id), version=applied.version, reason="late_acceptance", code=late.provider_code)

    def _announce(self, applied: Applied, started: float) -> None:
        """Cache the status, and publish the callback of the transition."""
        status = KnownStatus(applied.id, applied.version, applied.status, applied.kind, applied.client_id, started)
        self._announcer.cache(status)
        if applied.callback is not None:
            self._announcer.publish(Pointer(applied.callback, 1), Route.WORK, CALLBACKS.name, started)

    async def _apply(self, transition: Transition, **logged: object) -> bool:
        started = time.monotonic()
        applied = await self._applies.submit(transition)
        if applied is None:
            log.warning("job.stale", id=str(transition.id), version=transition.version, dropped=transition.to)
            return False
        if applied.publish and transition.delay_seconds == 0 and transition.route and transition.queue:
            pointer = Pointer(applied.id, applied.version)
            self._announcer.publish(pointer, transition.route, transition.queue, started, applied.headers)
        self._announce(applied, started)
        log.info(
            f"job.{applied.status}",
            id=str(applied.id),
            version=applied.version,
            reason=transition.reason,
            retry_in=round(transition.delay_seconds, 3) if transition.delay_seconds else None,
            **logged,
        )
        return True
