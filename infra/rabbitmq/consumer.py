"""Consumption of queues. Each delivery is dispatched on arrival."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ConnectionInternalError

from infra.rabbitmq.connection import BROKER_ERRORS, client_calls, connect, keep_connected, raise_cancellation
from infra.rabbitmq.deliveries import DeliveryChannel
from infra.rabbitmq.topology import Topology, declare

log = structlog.get_logger()

_CALL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message of a logical queue. If its channel is lost, the broker redelivers it, and its next claim is stale."""

    body: bytes
    queue: str
    redelivered: bool
    tag: int
    channel: DeliveryChannel

    async def ack(self) -> None:
        """Remove the message from the queue: the ledger has the job, or the message is stale."""
        self.channel.ack(self.tag)

    async def reject(self) -> None:
        """Move the message to the dead queue."""
        self.channel.reject(self.tag, requeue=False)

    async def nack(self) -> None:
        """Return the message to the queue for another consumer."""
        self.channel.reject(self.tag, requeue=True)


class Consumer:
    """Consumes queues on one connection, each with its own channel and prefetch.

    A queue that the broker cannot use for `repair_after_seconds` is recreated. `pause()` stops the consumption of one queue
    until `resume()`; `stop()` stops all queues for good. Deliveries in progress stay valid.
    """

    _dispatch: Callable[[Delivery], None]  # set by `run`

    def __init__(
        self, url: str, topology: Topology, prefetch: Mapping[str, int], *, name: str, repair_after_seconds: float = 30.0
    ):
        self._url = url
        self._topology = topology
        self._prefetch = prefetch
        self._name = name
        self._repair_after = repair_after_seconds
        self._unusable_since: dict[str, float] = {}  # monotonic
        self._channels: dict[str, DeliveryChannel] = {}  # of the current connection, by logical queue
        self._tags: dict[str, str] = {}
        self._paused: set[str] = set()
        self._switching = asyncio.Lock()
        self._over = asyncio.Event()
        self._delivered_at: dict[str, float] = {}  # monotonic; initially the start of consumption
        self._stopped = False

    async def run(self, dispatch: Callable[[Delivery], None]) -> None:
        """Consume until cancelled. `dispatch` receives each delivery, and must not block."""
        self._dispatch = dispatch
        await keep_connected(self._url, self._topology, self._session, name=f"{self._name} consumer")

    async def _session(self, connection: AbstractConnection) -> str:
        over = self._over = asyncio.Event()
        try:
            assert connection.transport is not None
            for logical, prefetch in self._prefetch.items():
                channel = DeliveryChannel(connection.transport.connection, partial(self._receive, logical))
                await channel.open(timeout=_CALL_SECONDS)
                await channel.basic_qos(prefetch_count=prefetch, timeout=_CALL_SECONDS)
                channel.closing.add_done_callback(lambda _: over.set())
                channel.on_consumer_cancel_callbacks.add(lambda _: over.set())
                self._channels[logical] = channel
                async with self.repairing(logical):
                    await self._switch(logical)
            await over.wait()
            return "a channel was lost or a queue was deleted"
        finally:
            self._channels, self._tags = {}, {}

    @asynccontextmanager
    async def repairing(self, queue: str) -> AsyncIterator[None]:
        """Recreates a queue after `repair_after_seconds` of internal errors of its consumption. Errors are raised again.

        RabbitMQ 3.10 loses a quorum queue's state if it is killed within a second of the declaration. The queue is still
        listed, but rejects every message, and answers each consumer with INTERNAL_ERROR (found by the fault suite).
        """
        try:
            yield
        except ConnectionInternalError:
            since = self._unusable_since.setdefault(queue, time.monotonic())
            # Not after the reconnect: another worker may have repaired the queue by then.
            if time.monotonic() - since >= self._repair_after:
                await self._recreate(queue, time.monotonic() - since)
            raise
        self._unusable_since.pop(queue, None)

    async def _recreate(self, queue: str, seconds: float) -> None:
        """Delete and declare the queue. The sweep publishes its messages again."""
        log.error("queue.recreated", queue=queue, reason="the broker lists it but cannot use it", for_seconds=round(seconds))
        async with await connect(self._url, "repairer") as connection:
            channel = await connection.channel()
            await channel.queue_delete(self._topology.name(queue))
            await declare(channel, self._topology)
        del self._unusable_since[queue]

    @property
    def is_connected(self) -> bool:
        """Whether the connection has a channel for each queue."""
        return len(self._channels) == len(self._prefetch)

    def silent_seconds(self, queue: str) -> float | None:
        """Seconds since the last delivery of a queue; None: the queue is not consumed now."""
        return time.monotonic() - self._delivered_at[queue] if queue in self._tags else None

    def rebuild(self) -> None:
        """Close the connection and open a new one."""
        self._over.set()

    async def pause(self, queue: str) -> None:
        """Stop consuming this queue, also after reconnects. Other consumers receive its messages."""
        self._paused.add(queue)
        await self._try_switch(queue)

    async def resume(self, queue: str) -> None:
        """Consume this queue again, unless stopped."""
        if not self._stopped:
            self._paused.discard(queue)
            await self._try_switch(queue)

    async def stop(self) -> None:
        self._stopped = True
        for queue in self._prefetch:
            await self.pause(queue)

    async def _try_switch(self, queue: str) -> None:
        try:
            with client_calls():
                await self._switch(queue)
        except BROKER_ERRORS as error:
            # The broker's state is unknown. A new session starts from the current pauses.
            log.debug("consumer.switch_failed", queue=queue, reason=str(error))
            self._over.set()

    async def _switch(self, logical: str) -> None:
        """Start or cancel the consumption of a queue according to its pause."""
        async with self._switching:
            channel, tag, paused = self._channels.get(logical), self._tags.get(logical), logical in self._paused
            if channel is None:
                return
            if paused and tag is not None:
                del self._tags[logical]
                await channel.basic_cancel(tag, timeout=_CALL_SECONDS)
            elif not paused and tag is None:
                name = self._topology.name(logical)
                consumed = await channel.basic_consume(name, _unused, timeout=_CALL_SECONDS)
                if self._channels.get(logical) is channel and consumed.consumer_tag:  # else that session is over
                    self._delivered_at[logical] = time.monotonic()
                    self._tags[logical] = consumed.consumer_tag
            raise_cancellation()

    def _receive(self, logical: str, channel: DeliveryChannel, body: bytes, tag: int, redelivered: bool) -> None:
        self._delivered_at[logical] = time.monotonic()
        self._dispatch(Delivery(body, logical, redelivered, tag, channel))


async def _unused(_: object) -> None:
    """The client's callback: `DeliveryChannel` passes the deliveries on instead."""
