"""The relay: publishes due outbox rows, after crashes, retry delays and outages of the broker."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from infra.errors import Transient
from infra.logs import OutageLog
from infra.postgres.outbox import Due
from infra.rabbitmq.publisher import NotPublished
from jobs.model import DEAD_QUEUES, Route
from jobs.wire import Pointer
from service.publishing import count_published

log = structlog.get_logger()

BATCH = 500
CALL_SECONDS = 5.0


class Outbox(Protocol):
    async def queues_due(self, timeout: float) -> list[str]: ...
    async def take(self, queue: str, limit: int, timeout: float) -> list[Due]: ...
    async def delete(self, published: Sequence[Pointer], timeout: float) -> list[None]: ...
    async def release(self, unpublished: Sequence[Pointer], timeout: float) -> None: ...


class Broker(Protocol):
    connected: asyncio.Event

    async def publish(self, route: Route, queue: str, messages: Sequence[Due]) -> Sequence[Transient | None]: ...
    async def ready_messages(self, queue: str) -> int: ...


@dataclass(eq=False)
class QueuePublisher:
    """Publishes the due outbox rows of one queue.

    Work queues are topped up to `ready_depth` messages: a million due jobs neither flood the broker nor starve other queues.
    Dead queues have no limit: nothing consumes them.
    """

    outbox: Outbox
    broker: Broker
    ready_depth: int
    _refusals: dict[str, OutageLog] = field(default_factory=dict, init=False)

    async def top_up(self, queue: str) -> int:
        """Publish at most a batch of due rows; returns the number of published messages."""
        room = BATCH
        if queue not in DEAD_QUEUES.values():
            room = min(BATCH, self.ready_depth - await self.broker.ready_messages(queue))
        if room <= 0:
            return 0
        rows = await self.outbox.take(queue, room, CALL_SECONDS)
        errors = await self._publish(queue, rows)
        count_published("relay", errors)
        outage = self._refusals.setdefault(queue, OutageLog("relay.queue", f"messages of {queue} wait in the outbox"))
        if error := next(filter(None, errors), None):
            outage.failed(error)
        published = [due.pointer for due, error in zip(rows, errors, strict=True) if error is None]
        unpublished = [due.pointer for due, error in zip(rows, errors, strict=True) if error is not None]
        if published:
            outage.succeeded()
            await self.outbox.delete(published, CALL_SECONDS)
        if unpublished:
            await self.outbox.release(unpublished, CALL_SECONDS)
        return len(published)

    async def _publish(self, queue: str, rows: list[Due]) -> Sequence[Transient | None]:
        try:
            return await self.broker.publish(rows[0].route, queue, rows) if rows else []
        except NotPublished as error:
            return [error] * len(rows)


@dataclass(eq=False)
class Relay:
    """One relay is active at a time, others stand by. `acquire_lead`: whether this one is active.

    Queues are topped up concurrently: a stuck queue delays no other.
    """

    outbox: Outbox
    broker: Broker
    acquire_lead: Callable[[], Awaitable[bool]]
    queues: frozenset[str]
    ready_depth: int
    poll_seconds: float
    is_leading: bool = field(default=False, init=False)
    _parked: set[str] = field(default_factory=set, init=False)
    _topping_up: dict[str, asyncio.Task[int]] = field(default_factory=dict, init=False)
    _publisher: QueuePublisher = field(init=False)

    def __post_init__(self) -> None:
        self._publisher = QueuePublisher(self.outbox, self.broker, self.ready_depth)

    async def run(self) -> None:
        outage = OutageLog("relay", "due messages wait in the outbox")
        try:
            while True:
                # Before `_lead`, which keeps the lead: a relay without a broker must lose it to another relay.
                await self.broker.connected.wait()
                try:
                    if await self._lead():
                        await self._start()
                    published = await self._settle()
                except Transient as error:
                    outage.failed(error)
                    published = 0
                else:
                    outage.succeeded()
                if not published:
                    await asyncio.sleep(self.poll_seconds)
        finally:
            for task in self._topping_up.values():
                task.cancel()

    async def _lead(self) -> bool:
        leading = await self.acquire_lead()
        if leading != self.is_leading:
            log.info("relay.active" if leading else "relay.standby")
        self.is_leading = leading
        return leading

    async def round(self) -> int:
        """Top up each queue once; returns the number of published messages."""
        await self._start()
        await asyncio.gather(*self._topping_up.values(), return_exceptions=True)
        return await self._settle()

    async def _start(self) -> None:
        """Start a task for each queue that has due rows and no task."""
        due = await self.outbox.queues_due(CALL_SECONDS)
        self._park({queue for queue in due if queue not in self.queues})
        for queue in due:
            if queue in self.queues and queue not in self._topping_up:
                self._topping_up[queue] = asyncio.create_task(self._publisher.top_up(queue))

    async def _settle(self) -> int:
        """Wait for the first tasks to end, one poll at most; returns the number of published messages. Raises their errors."""
        if not self._topping_up:
            return 0
        done, _ = await asyncio.wait(self._topping_up.values(), timeout=self.poll_seconds, return_when=asyncio.FIRST_COMPLETED)
        self._topping_up = {queue: task for queue, task in self._topping_up.items() if task not in done}
        if errors := [error for task in done if (error := task.exception()) is not None]:
            raise errors[0]
        return sum(task.result() for task in done)

    def _park(self, queues: set[str]) -> None:
        """Log once that rows of an unconfigured provider wait in the outbox."""
        for queue in sorted(queues - self._parked):
            log.warning("relay.parked", queue=queue, reason="no configured provider has this queue; its jobs wait")
        self._parked = queues
