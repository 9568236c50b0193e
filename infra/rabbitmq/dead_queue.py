"""Tidying of dead queues: one reading acknowledges stale copies and returns the rest."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from infra.rabbitmq.connection import connected
from infra.rabbitmq.topology import Topology, declare
from jobs.wire import Pointer, Undecodable, decode

_SILENCE_SECONDS = 2.0  # afterwards the rest is assumed to be with another reader
_PAGE = 1000
# Unacknowledged copies of one channel. Without an explicit prefetch a quorum queue stops at 2,000.
_PREFETCH = 10_000

Page = list[AbstractIncomingMessage]
Stale = Callable[[Sequence[Pointer]], Awaitable[set[Pointer]]]


@dataclass(frozen=True, slots=True)
class UndecodableMessage:
    body: bytes
    reason: str


@dataclass(slots=True)
class TidyResult:
    """One reading: the numbers of acknowledged and kept messages, the undecodable ones, and what the copies point to."""

    acknowledged: int = 0
    kept: int = 0
    undecodable: list[UndecodableMessage] = field(default_factory=list)
    copies: set[Pointer] = field(default_factory=set, repr=False)


class DeadQueues:
    """The dead queues of one namespace. Each reading opens its own connection, and keeps the ids of its messages in memory."""

    def __init__(self, url: str, topology: Topology):
        self._url = url
        self._topology = topology

    async def tidy(self, queue: str, stale: Stale, *, drop_undecodable: bool = False) -> TidyResult:
        """Acknowledge stale and duplicate copies; `drop_undecodable`: undecodable messages, too.

        Raises BrokerDown: RabbitMQ is unreachable, or the connection was lost. Its end returns the other messages to the queue.
        """
        name, result = self._topology.name(queue), TidyResult()
        async with connected(self._url, "dead letters") as connection:
            channel = await connection.channel()
            await declare(channel, self._topology)
            ready = (await channel.declare_queue(name, passive=True)).declaration_result.message_count or 0
            async for page in _pages(connection, name, ready, result):
                await _settle(page, result, stale, drop_undecodable=drop_undecodable)
        return result


async def _pages(connection: AbstractConnection, name: str, ready: int, result: TidyResult) -> AsyncIterator[Page]:
    """Pages of `ready` messages. Kept copies stay unacknowledged, on channel after channel, so that the next are delivered."""
    while result.acknowledged + result.kept < ready:
        channel, deliveries = await connection.channel(), asyncio.Queue[AbstractIncomingMessage]()
        await channel.set_qos(prefetch_count=_PREFETCH)
        source = await channel.get_queue(name, ensure=False)
        tag = await source.consume(deliveries.put)
        full = result.kept + _PREFETCH
        while result.kept < full and (remaining := ready - result.acknowledged - result.kept) > 0:
            page = await _page(deliveries, min(remaining, _PAGE))
            if not page:
                return
            yield page
        await source.cancel(tag)


async def _settle(page: Page, result: TidyResult, stale: Stale, *, drop_undecodable: bool) -> None:
    copies: list[tuple[Pointer, AbstractIncomingMessage]] = []
    removals: Page = []
    for message in page:
        try:
            pointer = decode(message.body)
        except Undecodable as error:
            result.undecodable.append(UndecodableMessage(message.body, str(error)))
            removals += [message] if drop_undecodable else []
            continue
        if pointer in result.copies:
            removals.append(message)
        else:
            result.copies.add(pointer)
            copies.append((pointer, message))
    stale_pointers = await stale([pointer for pointer, _ in copies])
    removals += [message for pointer, message in copies if pointer in stale_pointers]
    for message in removals:
        await message.ack()
    result.acknowledged += len(removals)
    result.kept += len(page) - len(removals)


async def _page(deliveries: "asyncio.Queue[AbstractIncomingMessage]", limit: int) -> Page:
    """At most `limit` messages; fewer, or none, after a silence of the broker."""
    page: Page = []
    with suppress(TimeoutError):
        while len(page) < limit:
            async with asyncio.timeout(_SILENCE_SECONDS):
                page.append(await deliveries.get())
    return page
