"""What follows a commit: publish, then delete the outbox row. All of it may fail; the relay heals it."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from jobs.model import Route
from jobs.wire import Pointer

log = structlog.get_logger()

IN_FLIGHT = 256
CAPACITY = 20_000


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A copy that was committed to the outbox; `expires_at` (monotonic seconds) is when the relay takes it over.

    `urgent` ones are published before all others that wait.
    """

    pointer: Pointer
    route: Route
    queue: str
    headers: dict[str, str | int] | None
    expires_at: float
    urgent: bool = False


class Broker(Protocol):
    """What publishing needs of RabbitMQ; `errors` is what `publish` raises when the message is not known to be there."""

    connected: asyncio.Event

    async def publish(
        self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None
    ) -> None: ...


class EagerPublisher:
    """Publishes what this process has just committed, in commit order (urgent ones first), and deletes its outbox rows.

    Bounded: what does not fit, or cannot be published before it is due, is let go of; the relay has it.
    """

    def __init__(self, broker: Broker, forget: Callable[[Pointer], Awaitable[None]], *, failures: tuple[type[Exception], ...]):
        self._broker = broker
        self._forget = forget
        self._failures = failures
        self._urgent: deque[Outgoing] = deque()
        self._waiting: deque[Outgoing] = deque()
        self._arrived = asyncio.Event()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, outgoing: Outgoing) -> None:
        """Publish this soon; never blocks."""
        waiting = self._urgent if outgoing.urgent else self._waiting
        if len(waiting) < CAPACITY:
            waiting.append(outgoing)
            self._arrived.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            if not (self._urgent or self._waiting):
                self._arrived.clear()
                await self._arrived.wait()
            await self._slots.acquire()
            waiting = self._urgent or self._waiting
            connected = await self._connected(waiting[0].expires_at)
            outgoing = waiting.popleft()
            if not connected:
                self._slots.release()
            else:
                task = asyncio.create_task(self._publish(outgoing))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _connected(self, expires_at: float) -> bool:
        patience = expires_at - time.monotonic()
        if patience <= 0:
            return False
        if self._broker.connected.is_set():
            return True
        try:
            async with asyncio.timeout(patience):
                await self._broker.connected.wait()
        except TimeoutError:
            return False
        return True

    async def _publish(self, outgoing: Outgoing) -> None:
        try:
            await self._broker.publish(outgoing.pointer, outgoing.route, outgoing.queue, outgoing.headers)
            await self._forget(outgoing.pointer)
        except self._failures as error:
            # Still in the outbox: the relay publishes it when it is due. A second copy is harmless.
            log.debug("publish.left_to_relay", id=str(outgoing.pointer.id), reason=str(error))
        finally:
            self._slots.release()

    async def finish(self, seconds: float) -> None:
        """Give what is waiting and under way a last chance; the rest is the relay's."""
        deadline = time.monotonic() + seconds
        while (self._urgent or self._waiting or self._tasks) and time.monotonic() < deadline:  # noqa: ASYNC110  once, at the end
            await asyncio.sleep(0.01)
