"""Consumption of queues: each delivery is dispatched as it arrives."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage, AbstractQueue

from infra.rabbitmq.connection import BROKER_ERRORS, SessionOver, client_calls, keep_connected
from infra.rabbitmq.queue_repair import QueueRepairer
from infra.rabbitmq.topology import Topology

log = structlog.get_logger()

_TURN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery: its body, the logical queue it came from, and how to settle it."""

    body: bytes
    queue: str
    message: AbstractIncomingMessage

    async def ack(self) -> None:
        """The ledger has the job, or it is stale: the broker may forget this message."""
        await self._settle(self.message.ack)

    async def reject(self) -> None:
        """The message cannot be used: the broker moves it to the dead queue."""
        await self._settle(lambda: self.message.reject(requeue=False))

    async def nack(self) -> None:
        """Somebody else shall have it: the broker puts it back."""
        await self._settle(lambda: self.message.nack(requeue=True))

    async def _settle(self, act: Callable[[], object]) -> None:
        try:
            with client_calls():
                await act()  # type: ignore[misc]
        except BROKER_ERRORS as error:
            # The channel is gone, and with it the tag: the broker delivers again, and the next claim finds it stale.
            log.debug("delivery.unsettled", queue=self.queue, reason=str(error))


class Consumer:
    """Consumes queues on one connection, with a channel and a prefetch each.

    A queue that the broker cannot use for `repair_after_seconds` is created anew. `pause()` cancels consumption of one queue
    until `resume()`; `stop()` cancels all for good. Deliveries that are held stay valid.
    """

    _dispatch: Callable[[Delivery], None]  # set by `run`, before anything is consumed

    def __init__(
        self,
        url: str,
        topology: Topology,
        prefetch: Mapping[str, int],
        *,
        name: str,
        repair_after_seconds: float = 30.0,
    ):
        self._url = url
        self._topology = topology
        self._prefetch = prefetch
        self._name = name
        self._repairer = QueueRepairer(url, topology, after_seconds=repair_after_seconds)
        self._queues: dict[str, AbstractQueue] = {}  # of the connection of the moment
        self._tags: dict[str, str] = {}
        self._paused: set[str] = set()
        self._turning = asyncio.Lock()
        self._over = asyncio.Event()
        self._heard: dict[str, float] = {}  # monotonic instants of the last delivery, or of the beginning of consuming
        self._stopped = False

    async def run(self, dispatch: Callable[[Delivery], None]) -> None:
        """Consume until cancelled; each delivery goes to `dispatch`, which must return at once."""
        self._dispatch = dispatch
        await keep_connected(self._url, self._topology, self._session, name=f"{self._name} consumer")

    async def _session(self, connection: AbstractConnection) -> None:
        over = self._over = asyncio.Event()
        self._queues, self._tags = {}, {}
        try:
            for logical, prefetch in self._prefetch.items():
                self._queues[logical] = await self._open(connection, logical, prefetch, over)
                async with self._repairer.repairing(logical):
                    await self._turn(logical)
            await over.wait()
            raise SessionOver("a channel was lost or a queue was deleted")
        finally:
            self._queues, self._tags = {}, {}

    async def _open(self, connection: AbstractConnection, logical: str, prefetch: int, over: asyncio.Event) -> AbstractQueue:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch)
        channel.close_callbacks.add(lambda *_: over.set())
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: over.set())
        return await channel.get_queue(self._topology.name(logical), ensure=False)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, with a channel for every queue."""
        return len(self._queues) == len(self._prefetch)

    def silent_seconds(self, queue: str) -> float | None:
        """For how long the broker has given nothing of a queue that it was asked for; None where it is not asked now."""
        return time.monotonic() - self._heard[queue] if queue in self._tags else None

    def rebuild(self) -> None:
        """Drop the connection and make everything on it anew."""
        self._over.set()

    async def pause(self, queue: str) -> None:
        """Take no more from this queue; whoever else consumes it gets the next. Holds across reconnects."""
        self._paused.add(queue)
        await self._turn_quietly(queue)

    async def resume(self, queue: str) -> None:
        """Take from this queue again, unless stopped."""
        if not self._stopped:
            self._paused.discard(queue)
            await self._turn_quietly(queue)

    async def stop(self) -> None:
        """Ask the broker for no more deliveries."""
        self._stopped = True
        for queue in self._prefetch:
            await self.pause(queue)

    async def _turn_quietly(self, queue: str) -> None:
        try:
            with client_calls():
                await self._turn(queue)
        except BROKER_ERRORS as error:
            # What the broker believes is in doubt: a new session begins with what is wanted then.
            log.debug("consumer.not_turned", queue=queue, reason=str(error))
            self._over.set()

    async def _turn(self, logical: str) -> None:
        """Consume or cancel, so that the broker is told what is wanted now."""
        async with self._turning:
            queue, tag, paused = self._queues.get(logical), self._tags.get(logical), logical in self._paused
            if queue is None:
                return
            if paused and tag is not None:
                del self._tags[logical]
                await queue.cancel(tag, timeout=_TURN_SECONDS)
            elif not paused and tag is None:
                tag = await queue.consume(self._receiver(logical), timeout=_TURN_SECONDS)
                if self._queues.get(logical) is queue:  # else that session is over
                    self._heard[logical] = time.monotonic()
                    self._tags[logical] = tag

    def _receiver(self, logical: str) -> Callable[[AbstractIncomingMessage], Awaitable[None]]:
        # Returns at once: the client cancels its callbacks when a channel closes, and no job's work may be cut like that.
        async def received(message: AbstractIncomingMessage) -> None:
            self._heard[logical] = time.monotonic()
            self._dispatch(Delivery(message.body, logical, message))

        return received
