"""Accepting a message: commit together with its concurrent neighbours, then publish, then cache. 202 after the commit."""

import time
from uuid import UUID

import structlog
import uuid_utils

from api.models import MessageIn
from infra.batching import Batcher
from infra.postgres.ledger import Accepted
from infra.publishing import EagerPublisher, Outgoing
from infra.statuses import Statuses
from jobs.lifecycle import Status
from jobs.model import KnownStatus, NewMessage, Priority, Route
from jobs.wire import Pointer

log = structlog.get_logger()


class Intake:
    """The one way in for messages. `timeout_seconds`: after it a client hears 503, whatever Postgres does."""

    def __init__(
        self,
        accepting: Batcher[NewMessage, Accepted],
        publisher: EagerPublisher,
        statuses: Statuses,
        *,
        grace_seconds: float,
        timeout_seconds: float,
    ):
        self._accepting = accepting
        self._publisher = publisher
        self._statuses = statuses
        self._grace = grace_seconds
        self._timeout = timeout_seconds

    async def accept(self, client_id: str, provider: str, wanted: MessageIn) -> Accepted:
        """Put one message into the ledger; it will be sent.

        Raises:
            DeadlineExceeded: Postgres did not confirm in time; the message may have been accepted.
            Overloaded: too many are waiting; it was not.
            BadData: Postgres refuses a value.
        """
        message = NewMessage(
            UUID(int=uuid_utils.uuid7().int),
            client_id,
            provider,
            Priority(wanted.priority),
            wanted.destination,
            wanted.body,
            wanted.reference,
            tuple(wanted.tags),
            wanted.metadata,
        )
        started = time.monotonic()
        accepted = await self._accepting.submit(message, self._timeout)
        urgent = message.priority is Priority.HIGH
        self._publisher.offer(Outgoing(Pointer(message.id, 1), Route.WORK, message.queue, None, started + self._grace, urgent))
        self._statuses.remember(KnownStatus(message.id, 1, Status.QUEUED, client_id, started))
        log.info("job.queued", id=str(message.id), version=1, provider=provider, priority=wanted.priority)
        return accepted
