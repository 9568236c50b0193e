"""Publishing after a commit: publish the message, then delete its outbox row. Either may fail; the relay has the row."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from infra.errors import Transient
from jobs.model import Route
from jobs.wire import Pointer

log = structlog.get_logger()

IN_FLIGHT = 64  # messages of one queue that wait for their confirm
CAPACITY = 20_000  # messages of one queue that wait to be published


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A copy that was committed to the outbox; `expires_at` (monotonic seconds) is when the relay takes it over."""

    pointer: Pointer
    route: Route
    queue: str
    headers: dict[str, str | int] | None
    expires_at: float


class Broker(Protocol):
    """What publishing needs of RabbitMQ; `errors` is what `publish` raises when the message is not known to be there."""

    connected: asyncio.Event

    async def publish(
        self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None
    ) -> None: ...


class EagerPublisher:
    """Publishes what this process has just committed, by queue in commit order, and deletes its outbox rows.

    Each queue has `IN_FLIGHT` slots of its own: one that never confirms delays no other. What does not fit into `CAPACITY`,
    or cannot be published before it is due, is left to the relay.
    """

    def __init__(self, broker: Broker, forget: Callable[[Pointer], Awaitable[None]]):
        self._broker = broker
        self._forget = forget
        self._waiting: defaultdict[str, deque[Outgoing]] = defaultdict(deque)
        self._in_flight: Counter[str] = Counter()
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, outgoing: Outgoing) -> None:
        """Publish this soon; never blocks."""
        waiting = self._waiting[outgoing.queue]
        if len(waiting) >= CAPACITY:
            _drop_expired(waiting)
        if len(waiting) < CAPACITY:
            waiting.append(outgoing)
            self._arrived.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._arrived.wait()
            await self._broker.connected.wait()
            self._arrived.clear()
            for queue, waiting in self._waiting.items():
                self._start(queue, waiting)

    def _start(self, queue: str, waiting: deque[Outgoing]) -> None:
        """Publish as many messages of one queue as it has free slots."""
        _drop_expired(waiting)
        while waiting and self._in_flight[queue] < IN_FLIGHT:
            self._in_flight[queue] += 1
            task = asyncio.create_task(self._publish(waiting.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _publish(self, outgoing: Outgoing) -> None:
        try:
            await self._broker.publish(outgoing.pointer, outgoing.route, outgoing.queue, outgoing.headers)
            await self._forget(outgoing.pointer)
        except Transient as error:
            # Still in the outbox: the relay publishes it when it is due. A second copy is harmless.
            log.debug("publish.left_to_relay", id=str(outgoing.pointer.id), reason=str(error))
        finally:
            self._in_flight[outgoing.queue] -= 1
            if self._waiting[outgoing.queue]:
                self._arrived.set()

    async def finish(self, seconds: float) -> None:
        """Give what is waiting and under way a last chance; the rest is the relay's."""
        deadline = time.monotonic() + seconds
        while (self._tasks or any(self._waiting.values())) and time.monotonic() < deadline:  # noqa: ASYNC110  once, at the end
            await asyncio.sleep(0.01)


def _drop_expired(waiting: deque[Outgoing]) -> None:
    """Leave to the relay what it has taken over by now; the oldest are first."""
    now = time.monotonic()
    while waiting and waiting[0].expires_at <= now:
        waiting.popleft()
