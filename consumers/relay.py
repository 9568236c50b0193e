"""The relay: publishes whatever is due in the outbox and still there: after crashes, retry delays, a broker that was down."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from infra.postgres.outbox import Due
from infra.rabbitmq.publisher import NotPublished
from jobs.model import Route
from jobs.wire import Pointer

log = structlog.get_logger()

BATCH = 500
CALL_SECONDS = 5.0


class Outbox(Protocol):
    """What the relay needs of the outbox."""

    async def queues_due(self, timeout: float) -> list[str]: ...
    async def take(self, queue: str, limit: int, timeout: float) -> list[Due]: ...
    async def delete(self, published: Sequence[Pointer], timeout: float) -> list[None]: ...
    async def give_back(self, unpublished: Sequence[Pointer], timeout: float) -> None: ...


class Broker(Protocol):
    """What the relay needs of RabbitMQ."""

    connected: asyncio.Event

    async def publish(
        self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None
    ) -> None: ...
    async def ready_messages(self, queue: str) -> int: ...


class Relay:
    """One is active at a time (`leads` says whether it is this one), others stand by.

    Queues are topped up to `ready_depth` messages, so that a million due at once neither flood the broker nor starve the rest.
    """

    def __init__(
        self,
        outbox: Outbox,
        broker: Broker,
        leads: Callable[[], Awaitable[bool]],
        sweep: Callable[[], Awaitable[int]],
        *,
        queues: frozenset[str],
        ready_depth: int,
        poll_seconds: float,
        passing: tuple[type[Exception], ...],
    ):
        self._outbox = outbox
        self._broker = broker
        self._leads = leads
        self._sweep = sweep
        self._queues = queues
        self._ready_depth = ready_depth
        self._poll_seconds = poll_seconds
        self._passing = passing
        self._parked: set[str] = set()
        self._leading = False

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            published = 0
            try:
                if await self._lead():
                    await self._broker.connected.wait()
                    await self._sweep()
                    published = await self.round()
            except self._passing as error:
                log.debug("relay.waiting", reason=str(error))
            if not published:
                await asyncio.sleep(self._poll_seconds)

    async def _lead(self) -> bool:
        leading = await self._leads()
        if leading != self._leading:
            log.info("relay.active" if leading else "relay.standby")
        self._leading = leading
        return leading

    async def round(self) -> int:
        """Top up each queue once; returns how many messages were published."""
        due = await self._outbox.queues_due(CALL_SECONDS)
        self._park({queue for queue in due if queue not in self._queues})
        counts = [await self._top_up(queue) for queue in due if queue in self._queues]
        return sum(counts)

    def _park(self, queues: set[str]) -> None:
        """Rows of a provider that is no longer configured wait in the outbox; said once."""
        for queue in sorted(queues - self._parked):
            log.warning("relay.parked", queue=queue, reason="no configured provider has this queue; its jobs wait")
        self._parked = queues

    async def _top_up(self, queue: str) -> int:
        room = self._ready_depth - await self._broker.ready_messages(queue)
        if room <= 0:
            return 0
        taken = await self._outbox.take(queue, min(room, BATCH), CALL_SECONDS)
        results = await asyncio.gather(*map(self._publish, taken))
        published = [due.pointer for due, done in zip(taken, results, strict=True) if done]
        unpublished = [due.pointer for due, done in zip(taken, results, strict=True) if not done]
        if published:
            await self._outbox.delete(published, CALL_SECONDS)
        if unpublished:
            await self._outbox.give_back(unpublished, CALL_SECONDS)
        return len(published)

    async def _publish(self, due: Due) -> bool:
        try:
            await self._broker.publish(due.pointer, due.route, due.queue, due.headers)
        except NotPublished as error:
            log.debug("relay.not_published", id=str(due.pointer.id), reason=str(error))
            return False
        return True
