"""Acceptance of jobs: commit a batch of concurrent submissions, then publish, then cache."""

import time
from uuid import UUID

import structlog
import uuid_utils

from infra.postgres.transitions.accept import Accepted, KeyReused
from jobs.lifecycle import Status
from jobs.model import KnownStatus, NewJob, Route
from jobs.wire import Pointer
from service.announcing import Announcer
from service.backlog import BacklogLimit
from service.batching import Batcher

log = structlog.get_logger()


class KeyTaken(Exception):
    """The idempotency key belongs to another request."""


class Acceptance:
    """Accepts every job. `timeout_seconds` bounds the wait for the commit."""

    def __init__(
        self,
        accepts: Batcher[NewJob, Accepted | KeyReused],
        announcer: Announcer,
        backlog: BacklogLimit,
        *,
        timeout_seconds: float,
    ):
        self._accepts = accepts
        self._announcer = announcer
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
        if accepted.replayed:  # the first request has published it, or the relay will
            return accepted
        self._announcer.publish(Pointer(job.id, 1), Route.WORK, job.queue.name, started)
        self._announcer.cache(KnownStatus(job.id, 1, Status.QUEUED, job.queue.kind, job.client_id, started))
        log.info("job.queued", id=str(job.id), version=1, queue=job.queue.name)
        return accepted


def new_job_id() -> UUID:
    """A new UUIDv7. Ids sort by time, so new rows share index pages."""
    return UUID(int=uuid_utils.uuid7().int)
