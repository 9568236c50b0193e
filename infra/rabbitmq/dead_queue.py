"""Tidying of dead queues: one reading acknowledges stale copies and returns the rest."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from infra.rabbitmq.connection import BROKER_ERRORS, client_calls, connect
from infra.rabbitmq.inspection import BrokerDown
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
    message: AbstractIncomingMessage = field(repr=False)


@dataclass(frozen=True, slots=True)
class TidyResult:
    """The result of one reading: the numbers of acknowledged and kept messages, and the undecodable ones."""

    acknowledged: int
    kept: int
    undecodable: list[UndecodableMessage]


class DeadQueues:
    """The dead queues of one namespace. Each reading opens its own connection, and keeps the ids of its messages in memory."""

    def __init__(self, url: str, topology: Topology):
        self._url = url
        self._topology = topology

    async def tidy(self, queue: str, stale: Stale, *, drop_undecodable: bool = False) -> TidyResult:
        """Acknowledge stale and duplicate copies; `drop_undecodable`: undecodable messages, too.

        Raises:
            BrokerDown: RabbitMQ is unreachable, or the connection was lost. Unacknowledged messages stay in the queue.
        """
        reading = _Reading(stale, drop_undecodable)
        async with self._connected() as connection:
            await reading.read(connection, self._topology.name(queue))
        return TidyResult(reading.acknowledged, reading.kept, reading.undecodable)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AbstractConnection]:
        """A connection. Its end returns unacknowledged messages to their queue."""
        try:
            with client_calls():
                async with await connect(self._url, "dead letters") as connection:
                    await declare(await connection.channel(), self._topology)
                    yield connection
        except BROKER_ERRORS as error:
            raise BrokerDown(str(error) or type(error).__name__) from error


class _Reading:
    """One reading of a queue, page by page."""

    def __init__(self, stale: Stale, drop_undecodable: bool):
        self._stale = stale
        self._drop_undecodable = drop_undecodable
        self._copies: set[tuple[bytes, int]] = set()
        self.acknowledged = 0
        self.kept = 0
        self.undecodable: list[UndecodableMessage] = []

    async def read(self, connection: AbstractConnection, name: str) -> None:
        """Read the messages that are ready now. Kept copies stay unacknowledged, so that the next ones are delivered."""
        channel = await connection.channel()
        ready = (await channel.declare_queue(name, passive=True)).declaration_result.message_count or 0
        while (count := ready - self.acknowledged - self.kept) > 0:
            if not await self._read_channel(connection, name, count):
                return

    async def _read_channel(self, connection: AbstractConnection, name: str, count: int) -> bool:
        """Read until one channel holds its prefetch of kept copies. False: nothing more is delivered."""
        channel, deliveries = await connection.channel(), asyncio.Queue[AbstractIncomingMessage]()
        await channel.set_qos(prefetch_count=_PREFETCH)
        source = await channel.get_queue(name, ensure=False)
        tag = await source.consume(deliveries.put)
        kept_before, end = self.kept, self.kept + self.acknowledged + count
        while self.kept - kept_before < _PREFETCH and (remaining := end - self.kept - self.acknowledged) > 0:
            page = await _page(deliveries, min(remaining, _PAGE))
            if not page:
                return False
            await self._settle(page)
        await source.cancel(tag)
        return True

    async def _settle(self, page: Sequence[AbstractIncomingMessage]) -> None:
        copies: list[tuple[Pointer, AbstractIncomingMessage]] = []
        removals: list[AbstractIncomingMessage] = []
        for message in page:
            try:
                pointer = decode(message.body)
            except Undecodable as error:
                self.undecodable.append(UndecodableMessage(message.body, str(error), message))
                removals += [message] if self._drop_undecodable else []
                continue
            key = (pointer.id.bytes, pointer.version)
            if key in self._copies:
                removals.append(message)
            else:
                self._copies.add(key)
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
    try:
        while len(page) < limit:
            async with asyncio.timeout(_SILENCE_SECONDS):
                page.append(await deliveries.get())
    except TimeoutError:
        return page
    return page
