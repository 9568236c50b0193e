"""Tidying of dead queues: one reading acknowledges stale copies and returns the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from infra.rabbitmq.connection import connected
from infra.rabbitmq.topology import Topology, declare
from jobs.wire import Pointer, Undecodable, decode

_SILENCE_SECONDS = 2.0  # afterwards the rest is assumed to be with another reader
_PAGE = 1000
# Unacknowledged copies of one channel. Without an explicit prefetch a quorum queue stops at 2,000.
_PREFETCH = 10_000

Stale = Callable[[Sequence[Pointer]], Awaitable[set[Pointer]]]


@dataclass(frozen=True, slots=True)
class UndecodableMessage:
    """A message in a dead queue that cannot be decoded."""

    body: bytes
    reason: str


class DeadQueues:
    """The dead queues of one namespace. Each reading opens its own connection, and keeps the ids of its messages in memory."""

    def __init__(self, url: str, topology: Topology):
        self._url = url
        self._topology = topology

    async def tidy(self, queue: str, stale: Stale, *, drop_undecodable: bool = False) -> "Reading":
        """Acknowledge stale and duplicate copies; `drop_undecodable`: undecodable messages, too.

        Raises BrokerDown: RabbitMQ is unreachable, or the connection was lost. Its end returns the other messages to the queue.
        """
        reading, name = Reading(stale, drop_undecodable), self._topology.name(queue)
        async with connected(self._url, "dead letters") as connection:
            channel = await connection.channel()
            await declare(channel, self._topology)
            ready = (await channel.declare_queue(name, passive=True)).declaration_result.message_count or 0
            await reading.read(connection, name, ready)
        return reading


class Reading:
    """One reading of a queue: the numbers of acknowledged and kept messages, and the undecodable ones."""

    def __init__(self, stale: Stale, drop_undecodable: bool):
        self._stale = stale
        self._drop_undecodable = drop_undecodable
        self._copies: set[Pointer] = set()
        self.acknowledged = 0
        self.kept = 0
        self.undecodable: list[UndecodableMessage] = []

    async def read(self, connection: AbstractConnection, name: str, ready: int) -> None:
        """Read `ready` messages. Kept copies stay unacknowledged, on channel after channel, so that the next are delivered."""
        while self.acknowledged + self.kept < ready:
            channel, deliveries = await connection.channel(), asyncio.Queue[AbstractIncomingMessage]()
            await channel.set_qos(prefetch_count=_PREFETCH)
            source = await channel.get_queue(name, ensure=False)
            tag = await source.consume(deliveries.put)
            full = self.kept + _PREFETCH
            while self.kept < full and (remaining := ready - self.acknowledged - self.kept) > 0:
                page = await _page(deliveries, min(remaining, _PAGE))
                if not page:
                    return
                await self._settle(page)
            await source.cancel(tag)

    async def _settle(self, page: Sequence[AbstractIncomingMessage]) -> None:
        copies: list[tuple[Pointer, AbstractIncomingMessage]] = []
        removals: list[AbstractIncomingMessage] = []
        for message in page:
            try:
                pointer = decode(message.body)
            except Undecodable as error:
                self.undecodable.append(UndecodableMessage(message.body, str(error)))
                removals += [message] if self._drop_undecodable else []
                continue
            if pointer in self._copies:
                removals.append(message)
            else:
                self._copies.add(pointer)
                copies.append((pointer, message))
        stale = await self._stale([pointer for pointer, _ in copies])
        removals += [message for pointer, message in copies if pointer in stale]
        for message in removals:
            await message.ack()
        self.acknowledged += len(removals)
        self.kept += len(page) - len(removals)


async def _page(deliveries: "asyncio.Queue[AbstractIncomingMessage]", limit: int) -> list[AbstractIncomingMessage]:
    """At most `limit` messages; fewer, or none, after a silence of the broker."""
    page: list[AbstractIncomingMessage] = []
    with suppress(TimeoutError):
        while len(page) < limit:
            async with asyncio.timeout(_SILENCE_SECONDS):
                page.append(await deliveries.get())
    return page
