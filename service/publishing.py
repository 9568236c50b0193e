"""Publishing after a commit: publish the message, then delete its outbox row. If either fails, the relay repeats it."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import Protocol

import structlog

from infra.errors import Transient
from jobs.model import Route
from jobs.wire import Pointer
from service.batching import Batcher

log = structlog.get_logger()

Headers = dict[str, str | int]
IN_FLIGHT = 64  # messages of one queue that wait for their confirm
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


class Broker(Protocol):
    """The part of the publisher that eager publishing uses. `publish` raises `Transient` without a confirm."""

    connected: asyncio.Event

    async def publish(self, pointer: Pointer, route: Route, queue: str, headers: Headers | None = None) -> None: ...


class EagerPublisher:
    """Publishes the messages of this process's commits, by queue in commit order, and deletes their outbox rows.

    Each queue has `IN_FLIGHT` slots of its own, so a queue without confirms delays no other. The relay publishes messages
    beyond `CAPACITY`, and messages that are not published `grace_seconds` after their commit.
    """

    def __init__(self, broker: Broker, deletes: Batcher[Pointer, None], *, grace_seconds: float):
        self._broker = broker
        self._deletes = deletes
        self._grace = grace_seconds
        self._waiting: defaultdict[str, deque[Outgoing]] = defaultdict(deque)
        self._in_flight: Counter[str] = Counter()
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, outgoing: Outgoing) -> None:
        """Queue a message for publishing; never blocks."""
        waiting = self._waiting[outgoing.queue]
        if len(waiting) >= CAPACITY:
            self._drop_expired(waiting)
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
                self._drop_expired(waiting)
                while waiting and self._in_flight[queue] < IN_FLIGHT:
                    self._in_flight[queue] += 1
                    task = asyncio.create_task(self._publish(waiting.popleft()))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    def _drop_expired(self, waiting: deque[Outgoing]) -> None:
        """Drop the messages that the relay publishes by now; the oldest are first."""
        expired = time.monotonic() - self._grace
        while waiting and waiting[0].started <= expired:
            waiting.popleft()

    async def _publish(self, outgoing: Outgoing) -> None:
        try:
            await self._broker.publish(outgoing.pointer, outgoing.route, outgoing.queue, outgoing.headers)
            await self._deletes.submit(outgoing.pointer, DELETE_SECONDS)
        except Transient as error:
            # The outbox row is still there, so the relay publishes the message. A duplicate is harmless.
            log.debug("publish.left_to_relay", id=str(outgoing.pointer.id), reason=str(error))
        finally:
            self._in_flight[outgoing.queue] -= 1
            if self._waiting[outgoing.queue]:
                self._arrived.set()

    async def finish(self, seconds: float) -> None:
        """Wait at most `seconds` until all is published; the relay publishes the rest."""
        deadline = time.monotonic() + seconds
        while (self._tasks or any(self._waiting.values())) and time.monotonic() < deadline:  # noqa: ASYNC110  once, at the end
            await asyncio.sleep(0.01)
