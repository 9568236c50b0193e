"""Acceptance of jobs: commit a batch of concurrent submissions, then publish, then cache."""

import time
from uuid import UUID

import structlog
import uuid_utils

from infra.postgres.transitions.accept import Accepted, KeyReused
from jobs.lifecycle import Status
from jobs.model import KnownStatus, NewJob, Route
from jobs.wire import Pointer
from service.backlog import BacklogLimit
from service.batching import Batcher
from service.publishing import EagerPublisher, Outgoing
from service.statuses import Statuses

log = structlog.get_logger()


class KeyTaken(Exception):
    """The idempotency key belongs to another request."""


class Acceptance:
    """Accepts every job. `timeout_seconds` bounds the wait for the commit."""

    def __init__(
        self,
        accepts: Batcher[NewJob, Accepted | KeyReused],
        publisher: EagerPublisher,
        statuses: Statuses,
        backlog: BacklogLimit,
        *,
        timeout_seconds: float,
    ):
        self._accepts = accepts
        self._publisher = publisher
        self._statuses = statuses
        self._backlog = backlog
        self._timeout = timeout_seconds

    async def accept(self, job: NewJob) -> Accepted:
        """Commit a job, then publish and cache it. An equal request under the same key returns the first result.

        Raises:
            BacklogFull: too many jobs of the client are waiting.
            KeyTaken: the key belongs to another request.
            DeadlineExceeded: Postgres did not confirm in time; the job may have been accepted.
            Overloaded: too many requests are waiting; the job was not accepted.
            BadData: Postgres rejects a value.
        """
        started = time.monotonic()
        with self._backlog.admission(job.client_id):
            accepted = await self._accepts.submit(job, self._timeout)
        if isinstance(accepted, KeyReused):
            raise KeyTaken
        if not accepted.replayed:  # otherwise the first request has published it, or the relay will
            self._publisher.offer(Outgoing(Pointer(job.id, 1), Route.WORK, job.queue.name, started))
            self._statuses.cache(KnownStatus(job.id, 1, Status.QUEUED, job.queue.kind, job.client_id, started))
            log.info("job.queued", id=str(job.id), version=1, queue=job.queue.name)
        return accepted


def new_job_id() -> UUID:
    """A new UUIDv7. Ids sort by time, so new rows share index pages."""
    return UUID(int=uuid_utils.uuid7().int)
