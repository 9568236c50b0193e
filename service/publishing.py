"""Publishing after a commit: publish the message, then delete its outbox row. If either fails, the relay repeats it."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from infra.errors import Transient
from infra.monitoring import metrics
from jobs.model import Route
from jobs.wire import Pointer
from service.batching import Batcher, ledger_batcher

log = structlog.get_logger()

Headers = dict[str, str | int]
BATCH = 256  # messages of one queue in one write
CAPACITY = 20_000  # messages of one queue that wait to be published
DELETE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message with a committed outbox row. `started`: monotonic seconds, before the commit."""

    pointer: Pointer
    route: Route
    queue: str
    started: float
    headers: Headers | None = None
    traceparent: str | None = None


class Broker(Protocol):
    """The part of the publisher that eager publishing uses. `publish` returns an error for each message without a confirm."""

    connected: asyncio.Event

    async def publish(self, route: Route, queue: str, messages: Sequence[Outgoing]) -> Sequence[Transient | None]: ...


class EagerPublisher:
    """Publishes the messages of this process's commits, by queue in commit order, and deletes their outbox rows.

    Each queue has one batch in flight, and its next one fills meanwhile: a queue without confirms delays no other. The relay
    publishes messages beyond `CAPACITY`, and messages that are not published `grace_seconds` after their commit.
    """

    def __init__(self, broker: Broker, deletes: Batcher[Sequence[Pointer], None], *, grace_seconds: float):
        self._broker = broker
        self._deletes = deletes
        self._grace = grace_seconds
        self._waiting: defaultdict[str, deque[Outgoing]] = defaultdict(deque)
        self._arrived = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def offer(self, outgoing: Outgoing) -> None:
        """Queue a message for publishing; never blocks."""
        waiting = self._waiting[outgoing.queue]
        if len(waiting) >= CAPACITY:
            self._drop_expired(waiting)
        if len(waiting) < CAPACITY:
            waiting.append(outgoing)
            self._arrived.set()

    async def run(self) -> None:
        """Publish until cancelled, in a task for each queue."""
        while True:
            await self._arrived.wait()
            await self._broker.connected.wait()
            self._arrived.clear()
            for queue, waiting in self._waiting.items():
                if waiting and queue not in self._tasks:
                    self._tasks[queue] = asyncio.create_task(self._publish_queue(queue, waiting))

    async def _publish_queue(self, queue: str, waiting: deque[Outgoing]) -> None:
        """Publish a queue's messages until none waits, or the broker is gone."""
        try:
            while waiting and self._broker.connected.is_set():
                self._drop_expired(waiting)
                if batch := [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]:
                    await self._publish(batch)
        except Exception:
            log.exception("publish.failed", queue=queue, effect="the relay publishes the messages")
        finally:
            del self._tasks[queue]
            if waiting:
                self._arrived.set()

    def _drop_expired(self, waiting: deque[Outgoing]) -> None:
        """Drop the messages that the relay publishes by now; the oldest are first."""
        expired = time.monotonic() - self._grace
        while waiting and waiting[0].started <= expired:
            waiting.popleft()

    async def _publish(self, batch: list[Outgoing]) -> None:
        """Publish a batch of one queue. Outbox rows without a confirm stay, and the relay publishes them again."""
        errors: Sequence[Transient | None]
        try:
            errors = await self._broker.publish(batch[0].route, batch[0].queue, batch)
            if confirmed := [outgoing.pointer for outgoing, error in zip(batch, errors, strict=True) if error is None]:
                self._deletes.post(confirmed, DELETE_SECONDS, _log_undeleted)
        except Transient as error:
            errors = [error] * len(batch)
        count_published("commit", errors)
        for outgoing, reason in zip(batch, errors, strict=True):
            if reason is not None:
                log.debug("publish.left_to_relay", id=str(outgoing.pointer.id), reason=str(reason))

    async def finish(self, seconds: float) -> None:
        """Wait at most `seconds` until all is published and deleted; the relay publishes the rest."""
        deadline = time.monotonic() + seconds
        while (self._tasks or any(self._waiting.values())) and time.monotonic() < deadline:  # noqa: ASYNC110  once, at the end
            await asyncio.sleep(0.01)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._deletes.drained()


def count_published(publisher: str, errors: Sequence[Transient | None]) -> None:
    """Count the messages of one batch by the broker's answer. `publisher`: the committing process, or the relay."""
    confirmed = sum(error is None for error in errors)
    metrics.PUBLISHED[publisher, "confirmed"].inc(confirmed)
    metrics.PUBLISHED[publisher, "unconfirmed"].inc(len(errors) - confirmed)


def _log_undeleted(delete: "asyncio.Future[None]") -> None:
    if (error := delete.exception()) is not None:
        log.debug("publish.left_to_relay", reason=str(error), effect="a duplicate, which is stale")


def outbox_deletes(delete: Callable[[Sequence[Pointer], float], Awaitable[object]]) -> Batcher[Sequence[Pointer], None]:
    """A batcher that deletes the rows of several published batches in one statement."""

    async def flush(batches: Sequence[Sequence[Pointer]], timeout: float) -> list[None]:
        await delete([pointer for batch in batches for pointer in batch], timeout)
        return [None] * len(batches)

    return ledger_batcher(flush, name="outbox_delete")
