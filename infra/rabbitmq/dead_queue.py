"""A dead queue, read through once: stale copies are acknowledged, the rest goes back as it was."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from infra.rabbitmq.connection import BROKER_ERRORS, client_calls, connect
from infra.rabbitmq.inspection import BrokerDown
from infra.rabbitmq.topology import Topology, declare
from jobs.wire import Pointer, Undecodable, decode

_SILENCE_SECONDS = 2.0  # another reader holds the rest
_PAGE = 1000
# Copies that one channel holds unacknowledged. Without a prefetch of its own a quorum queue stops at 2,000.
_HELD = 10_000

Stale = Callable[[Sequence[Pointer]], Awaitable[set[Pointer]]]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A message in the dead queue that is not one of ours: what a tool shows and exports of it."""

    body: bytes
    reason: str
    message: AbstractIncomingMessage = field(repr=False)


@dataclass(frozen=True, slots=True)
class TidyResult:
    """The result of a reading: how many were acknowledged, how many went back, and those that cannot be decoded (back, too)."""

    acknowledged: int
    kept: int
    undecodable: list[Foreign]


class DeadQueues:
    """The dead queues of one namespace. Each reading has a connection of its own; memory holds ids, at most the ready count."""

    def __init__(self, url: str, topology: Topology):
        self._url = url
        self._topology = topology

    async def tidy(self, queue: str, stale: Stale, *, drop_undecodable: bool = False) -> TidyResult:
        """Acknowledge copies whose jobs have moved on and second copies (and, if asked, what cannot be decoded).

        Raises:
            BrokerDown: RabbitMQ cannot be reached, or was lost on the way; what was not acknowledged is still there.
        """
        reading = _Reading(stale, drop_undecodable)
        async with self._connected() as connection:
            await reading.read(connection, self._topology.name(queue))
        return TidyResult(reading.acknowledged, reading.kept, reading.foreign)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AbstractConnection]:
        """A connection; closing it gives back what has not been acknowledged by then."""
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
        self.foreign: list[Foreign] = []

    async def read(self, connection: AbstractConnection, name: str) -> None:
        """Read what is ready now. A copy that is kept stays with its channel, so the next one is delivered behind it."""
        counting = await connection.channel()
        ready = (await counting.declare_queue(name, passive=True)).declaration_result.message_count or 0
        while (left := ready - self.acknowledged - self.kept) > 0:
            if not await self._read_channel(connection, name, left):
                return

    async def _read_channel(self, connection: AbstractConnection, name: str, left: int) -> bool:
        """Read until one channel holds as many copies as it may; False: nothing more is delivered."""
        channel, held = await connection.channel(), asyncio.Queue[AbstractIncomingMessage]()
        await channel.set_qos(prefetch_count=_HELD)
        source = await channel.get_queue(name, ensure=False)
        tag = await source.consume(held.put)
        kept_before, seen_before = self.kept, self.kept + self.acknowledged
        while self.kept - kept_before < _HELD and (rest := left - (self.kept + self.acknowledged - seen_before)) > 0:
            page = await _page(held, min(rest, _PAGE))
            if not page:
                return False
            await self._judge(page)
        await source.cancel(tag)
        return True

    async def _judge(self, page: Sequence[AbstractIncomingMessage]) -> None:
        copies: list[tuple[Pointer, AbstractIncomingMessage]] = []
        done: list[AbstractIncomingMessage] = []
        for message in page:
            try:
                pointer = decode(message.body)
            except Undecodable as error:
                self.foreign.append(Foreign(message.body, str(error), message))
                done += [message] if self._drop_undecodable else []
                continue
            key = (pointer.id.bytes, pointer.version)
            if key in self._copies:
                done.append(message)
            else:
                self._copies.add(key)
                copies.append((pointer, message))
        old = await self._stale([pointer for pointer, _ in copies])
        done += [message for pointer, message in copies if pointer in old]
        for message in done:
            await message.ack()
        self.acknowledged += len(done)
        self.kept += len(page) - len(done)


async def _page(held: "asyncio.Queue[AbstractIncomingMessage]", limit: int) -> list[AbstractIncomingMessage]:
    """At most `limit` messages; fewer, or none, once the broker has been silent."""
    page: list[AbstractIncomingMessage] = []
    try:
        while len(page) < limit:
            async with asyncio.timeout(_SILENCE_SECONDS):
                page.append(await held.get())
    except TimeoutError:
        return page
    return page
