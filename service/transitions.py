"""Transitions: a new job or an outcome is committed, and only then published and cached."""

import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from infra.monitoring import metrics
from infra.postgres.transitions.accept import Accepted, KeyReused
from infra.postgres.transitions.apply import Applied, LateAcceptance
from infra.postgres.transitions.claim import ClaimRequest
from jobs.decision import decide, decide_lost
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Claimed, KnownStatus, LostLease, NewJob, Route, Transition, WorkQueue
from jobs.outcome import Outcome
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from service.activity import Activity
from service.backlog import BacklogLimit
from service.batching import Batcher, ledger_batcher
from service.publishing import EagerPublisher, Outgoing
from service.statuses import Statuses

log = structlog.get_logger()


class KeyTaken(Exception):
    """The idempotency key belongs to another request."""


class _Submission(NamedTuple):
    """A job, and the monotonic seconds of its submission: before its commit, even if the batch is repeated."""

    job: NewJob
    started: float


class Acceptance:
    """Accepts new jobs in batches. `timeout_seconds` bounds the wait for the commit."""

    def __init__(
        self,
        commit: Callable[[Sequence[NewJob], float], Awaitable[Sequence[Accepted | KeyReused]]],
        publisher: EagerPublisher,
        backlog: BacklogLimit,
        *,
        timeout_seconds: float,
        activity: Activity,
    ):
        self._commit = commit
        self._publisher = publisher
        self._backlog = backlog
        self._timeout_seconds = timeout_seconds
        self._activity = activity
        self._batches = ledger_batcher(self._flush, name="accept", flushes=2)
        self.drained = self._batches.drained

    async def accept(self, job: NewJob) -> Accepted:
        """Commit a job. It is published, too. An equal request under the same key returns the first result.

        Raises `BacklogFull`, `KeyTaken`, `Overloaded`, `BadData` if Postgres rejects a value, or `DeadlineExceeded` if Postgres
        did not confirm in time. After the last, the job may have been accepted.
        """
        with self._backlog.admission(job.client_id):
            accepted = await self._batches.submit(_Submission(job, time.monotonic()), self._timeout_seconds)
        if isinstance(accepted, KeyReused):
            raise KeyTaken
        return accepted

    async def _flush(self, batch: Sequence[_Submission], timeout: float) -> Sequence[Accepted | KeyReused]:
        """Commit a batch, then publish and log its new jobs.

        They are not cached: most are claimed before anybody reads them, and the first read caches the others.
        """
        results = await self._commit([submission.job for submission in batch], timeout)
        queued: defaultdict[str, list[str]] = defaultdict(list)
        for (job, started), result in zip(batch, results, strict=True):
            # The first request under a key has published its job, or the relay will.
            if isinstance(result, Accepted) and not result.replayed:
                queue = job.queue.name
                self._publisher.offer(Outgoing(Pointer(job.id, 1), Route.WORK, queue, started, None, job.traceparent))
                queued[queue].append(str(job.id))
                self._activity.accepted(job.queue)
        _log_jobs("jobs.queued", queued)
        return results


def _log_jobs(action: str, ids_by_queue: dict[str, list[str]]) -> None:
    """One line a queue for all jobs of a batch."""
    for queue, ids in ids_by_queue.items():
        log.info(action, queue=queue, jobs=len(ids), ids=ids)


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records the outcomes of claimed jobs. `lost_leases`: the number that ends a job."""

    applies: Batcher[Transition, Applied | None]
    late: Batcher[LateAcceptance, Applied | None]
    publisher: EagerPublisher
    statuses: Statuses
    lost_leases: int
    activity: Activity = field(default_factory=Activity)

    def claimed(self, jobs: Sequence[Claimed], at: float) -> None:
        """Cache and log committed claims. `at`: monotonic seconds, before the claims."""
        processing: defaultdict[str, list[str]] = defaultdict(list)
        for job in jobs:
            self.statuses.cache_claim(KnownStatus(job.id, job.version, Status.PROCESSING, job.queue.kind, job.client_id, at))
            processing[job.queue.name].append(str(job.id))
        _log_jobs("jobs.processing", processing)

    async def record(self, job: Claimed, outcome: Outcome, policy: RetryPolicy, *, ran_seconds: float) -> None:
        """Commit the outcome of a claimed job; retries while Postgres is unavailable."""
        transition = decide(job, outcome, policy, ran_seconds=ran_seconds, jitter=random.random())  # noqa: S311
        begun = time.monotonic() - job.age_seconds - ran_seconds  # the acceptance, or the last requeue
        recorded = await self._apply(transition, job.queue, begun, attempt=job.attempts + 1, code=outcome.provider_code)
        if not recorded and transition.to is Status.SENT:  # the lease expired: the job is `unknown`, or waits for a retry
            started = time.monotonic()
            late = LateAcceptance(job.id, job.token, outcome.provider_code, outcome.provider_message_id)
            if (applied := await self.late.submit(late)) is not None:
                self._announce(applied, started, reason="late_acceptance", code=outcome.provider_code)
                self.activity.recorded(job.queue, applied.status, "late_acceptance", time.monotonic() - begun)

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None:
        """Commit that a job's lease has expired."""
        transition = decide_lost(job, policy, limit=self.lost_leases, jitter=random.random())  # noqa: S311
        if await self._apply(transition, job.queue, lost_leases=job.lost_leases + 1):
            metrics.LEASES_LOST[job.queue.kind, job.queue.provider or ""].inc()

    async def _apply(self, transition: Transition, queue: WorkQueue, begun: float | None = None, **logged: object) -> bool:
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
        retry_in = round(delay, 3) if delay else None
        self._announce(applied, started, reason=transition.reason, retry_in=retry_in, queue=queue.name, **logged)
        seconds = None if begun is None else time.monotonic() - begun
        self.activity.recorded(queue, applied.status, transition.reason, seconds)
        return True

    def _announce(self, applied: Applied, started: float, **logged: object) -> None:
        """Cache and log the new status, and publish the callback of the transition."""
        self.statuses.cache(KnownStatus(applied.id, applied.version, applied.status, applied.kind, applied.client_id, started))
        if applied.callback is not None:
            callback = Pointer(applied.callback, 1)
            self.publisher.offer(Outgoing(callback, Route.WORK, CALLBACKS.name, started, None, applied.traceparent))
        log.info(f"job.{applied.status}", id=str(applied.id), version=applied.version, **logged)


def claim_batcher(
    claim: Callable[[Sequence[ClaimRequest], float], Awaitable[Sequence[Claimed | None]]], recorder: Recorder
) -> Batcher[ClaimRequest, Claimed | None]:
    """A batcher of claims that announces them. Of equal requests one gets the job, and the others are stale."""

    async def flush(requests: Sequence[ClaimRequest], timeout: float) -> Sequence[Claimed | None]:
        started = time.monotonic()
        jobs = await claim(requests, timeout)
        recorder.claimed([job for job in jobs if job is not None], started)
        return jobs

    return ledger_batcher(flush, key=lambda request: (request.id, request.version), duplicate=lambda _: None, name="claim")
