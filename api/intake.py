"""Accepting a job: commit together with its concurrent neighbours, then publish, then cache. 202 after the commit."""

import time
from uuid import UUID

import structlog
import uuid_utils

from api.backlog import BacklogLimit
from api.models import MessageIn
from infra.batching import Batcher
from infra.postgres.ledger import Accepted, KeyReused
from infra.publishing import EagerPublisher, Outgoing
from infra.statuses import Statuses
from jobs.lifecycle import Status
from jobs.model import REPORTS, Delivery, IdempotencyKey, KnownStatus, NewJob, Priority, Route, message_queue
from jobs.wire import Pointer

log = structlog.get_logger()


class KeyTaken(Exception):
    """The idempotency key was used before, for another request."""


class Intake:
    """The one way in for jobs. `timeout_seconds`: after it a client hears 503, whatever Postgres does."""

    def __init__(
        self,
        accepting: Batcher[NewJob, Accepted | KeyReused],
        publisher: EagerPublisher,
        statuses: Statuses,
        backlog: BacklogLimit,
        *,
        grace_seconds: float,
        timeout_seconds: float,
    ):
        self._accepting = accepting
        self._publisher = publisher
        self._statuses = statuses
        self._backlog = backlog
        self._grace = grace_seconds
        self._timeout = timeout_seconds

    async def accept_message(
        self, client_id: str, provider: str, message: MessageIn, callback_url: str | None, key: IdempotencyKey | None = None
    ) -> Accepted:
        """Put one message into the ledger; it will be sent. See `accept` for what it raises."""
        return await self.accept(
            NewJob(
                _new_id(),
                client_id,
                message_queue(provider, Priority(message.priority)),
                message.destination,
                message.body,
                Delivery(message.delivery),
                message.reference,
                tuple(message.tags),
                message.metadata,
                key,
                callback_url,
            )
        )

    async def accept_report(self, client_id: str, callback_url: str | None, key: IdempotencyKey | None = None) -> Accepted:
        """Put one report into the ledger; it will be computed. See `accept` for what it raises."""
        return await self.accept(NewJob(_new_id(), client_id, REPORTS, key=key, callback_url=callback_url))

    async def accept(self, job: NewJob) -> Accepted:
        """Commit, then publish and cache; what an equal request under the same key has made is answered as it is.

        Raises:
            Problem: 503, too many jobs of the client are waiting.
            KeyTaken: the key names another request.
            DeadlineExceeded: Postgres did not confirm in time; the job may have been accepted.
            Overloaded: too many are waiting; it was not.
            BadData: Postgres refuses a value.
        """
        started = time.monotonic()
        with self._backlog.admission(job.client_id):
            accepted = await self._accepting.submit(job, self._timeout)
        if isinstance(accepted, KeyReused):
            raise KeyTaken
        if accepted.replayed:  # whoever made it has published it, or the relay does
            return accepted
        pointer, name = Pointer(job.id, 1), job.queue.name
        self._publisher.offer(Outgoing(pointer, Route.WORK, name, None, started + self._grace))
        self._statuses.remember(KnownStatus(job.id, 1, Status.QUEUED, job.queue.kind, job.client_id, started))
        log.info("job.queued", id=str(job.id), version=1, queue=name)
        return accepted


def _new_id() -> UUID:
    return UUID(int=uuid_utils.uuid7().int)
