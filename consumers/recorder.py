"""Recording: an outcome becomes a transition, the transition commits, and only then is it published and cached."""

import random
import time

import structlog

from infra.batching import Batcher
from infra.postgres.ledger import Applied, LateAcceptance
from infra.publishing import EagerPublisher, Outgoing
from infra.statuses import Statuses
from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Claimed, KnownStatus, LostLease, Route, Transition
from jobs.outcome import Outcome
from jobs.retry import RetryPolicy
from jobs.wire import Pointer

log = structlog.get_logger()


class Recorder:
    """Applies transitions; `grace_seconds` is the head start that this process has over the relay."""

    def __init__(
        self,
        applies: Batcher[Transition, Applied | None],
        late: Batcher[LateAcceptance, Applied | None],
        publisher: EagerPublisher,
        statuses: Statuses,
        *,
        grace_seconds: float,
        lost_leases: int,
    ):
        self._applies = applies
        self._late = late
        self._publisher = publisher
        self._statuses = statuses
        self._grace = grace_seconds
        self._lost_leases = lost_leases

    def claimed(self, job: Claimed, at: float) -> None:
        """Tell what has just been committed: the job is being worked on. `at`: monotonic, before the claim."""
        log.info("job.processing", id=str(job.id), version=job.version, queue=job.queue.name)
        self._statuses.remember(KnownStatus(job.id, job.version, Status.PROCESSING, job.queue.kind, job.client_id, at))

    async def record(self, job: Claimed, outcome: Outcome, policy: RetryPolicy, *, ran_seconds: float) -> None:
        """Commit what became of a claimed job, however long Postgres takes to come back."""
        transition = decide(job, outcome, policy, ran_seconds=ran_seconds, jitter=random.random())  # noqa: S311
        recorded = await self._apply(transition, queue=job.queue.name, attempt=job.attempts + 1, code=outcome.provider_code)
        if not recorded and transition.to is Status.SENT:
            await self._accept_late(LateAcceptance(job.id, job.token, outcome.provider_code, outcome.provider_message_id))

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None:
        """Commit that a job's worker let its lease run out."""
        transition = decide_lost(job, policy, limit=self._lost_leases, jitter=random.random())  # noqa: S311
        await self._apply(transition, queue=job.queue.name, lost_leases=job.lost_leases + 1)

    async def _accept_late(self, late: LateAcceptance) -> None:
        """The job had been taken back, and may have been called unknown, or be waiting for another try: it is neither."""
        started = time.monotonic()
        step = await self._late.submit(late)
        if step is not None:
            self._tell(step, started)
            log.info("job.sent", id=str(step.id), version=step.version, reason="late", code=late.provider_code)

    def _tell(self, step: Applied, started: float) -> None:
        """Whoever waits for the job, and whoever wants to be called."""
        self._statuses.remember(KnownStatus(step.id, step.version, step.status, step.kind, step.client_id, started))
        if step.callback is not None:
            until = started + self._grace
            self._publisher.offer(Outgoing(Pointer(step.callback, 1), Route.WORK, CALLBACKS.name, None, until))

    async def _apply(self, transition: Transition, **said: object) -> bool:
        started = time.monotonic()
        step = await self._applies.submit(transition)
        if step is None:
            log.warning("job.stale", id=str(transition.id), version=transition.version, dropped=transition.to)
            return False
        if step.publish and transition.delay_seconds == 0 and transition.route and transition.queue:
            pointer = Pointer(step.id, step.version)
            self._publisher.offer(Outgoing(pointer, transition.route, transition.queue, step.headers, started + self._grace))
        self._tell(step, started)
        log.info(
            f"job.{step.status}",
            id=str(step.id),
            version=step.version,
            reason=transition.reason,
            retry_in=round(transition.delay_seconds, 3) if transition.delay_seconds else None,
            **said,
        )
        return True
