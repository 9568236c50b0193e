"""Consuming: deliveries of some queues are handed on, one by one, to whoever has a free slot."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from infra.rabbitmq.connection import BROKER_ERRORS, SessionOver, keep_connected
from infra.rabbitmq.topology import Topology

log = structlog.get_logger()


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

    async def give_back(self) -> None:
        """Somebody else shall have it: the broker puts it back."""
        await self._settle(lambda: self.message.nack(requeue=True))

    async def _settle(self, act: Callable[[], object]) -> None:
        try:
            await act()  # type: ignore[misc]
        except BROKER_ERRORS as error:
            # The channel is gone, and with it the tag: the broker delivers again, and the next claim finds it stale.
            log.debug("delivery.unsettled", queue=self.queue, reason=str(error))


class Consumer:
    """Consumes queues on one connection, a channel each, with a prefetch each; deliveries go to `hand_on`.

    `stop()` ends taking: the consumers are cancelled, what is held stays to be settled, `close()` gives back the rest.
    """

    def __init__(
        self, url: str, topology: Topology, prefetch: Mapping[str, int], hand_on: Callable[[Delivery], None], name: str
    ):
        self._url = url
        self._topology = topology
        self._prefetch = prefetch
        self._hand_on = hand_on
        self._name = name
        self._cancels: list[Callable[[], object]] = []
        self._stopped = False

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await keep_connected(self._url, self._topology, self._session, name=f"{self._name} consumer")

    async def _session(self, connection: AbstractConnection) -> None:
        over = asyncio.Event()
        self._cancels = []
        for logical, prefetch in self._prefetch.items():
            await self._consume(connection, logical, prefetch, over)
        try:
            await over.wait()
            raise SessionOver("a channel was lost or a queue was deleted")
        finally:
            self._cancels = []

    async def _consume(self, connection: AbstractConnection, logical: str, prefetch: int, over: asyncio.Event) -> None:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch)
        channel.close_callbacks.add(lambda *_: over.set())
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: over.set())
        queue = await channel.get_queue(self._topology.name(logical), ensure=False)

        # Returns at once: the client cancels its callbacks when a channel closes, and no job's work may be cut like that.
        async def received(message: AbstractIncomingMessage) -> None:
            self._hand_on(Delivery(message.body, logical, message))

        if not self._stopped:
            tag = await queue.consume(received)
            self._cancels.append(lambda: queue.cancel(tag, timeout=2))

    async def stop(self) -> None:
        """Ask the broker for no more deliveries."""
        self._stopped = True
        for cancel in self._cancels:
            try:
                await cancel()  # type: ignore[misc]
            except BROKER_ERRORS as error:
                log.debug("consumer.cancel_failed", reason=str(error))
