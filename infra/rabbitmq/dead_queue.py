"""A dead queue, looked through once: what is stale is acknowledged, the rest goes back as it was."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from infra.rabbitmq.connection import BROKER_ERRORS, client_calls, connect
from infra.rabbitmq.inspection import BrokerDown
from infra.rabbitmq.topology import Topology, declare
from jobs.wire import Pointer, Undecodable, decode

_SILENCE_SECONDS = 2.0  # somebody else holds the rest
_BATCH = 1000

Stale = Callable[[Sequence[Pointer]], Awaitable[set[Pointer]]]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A message in the dead queue that is not one of ours: what a tool shows and exports of it."""

    body: bytes
    reason: str
    message: AbstractIncomingMessage = field(repr=False)


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found: how many were acknowledged and how many went back, and those that cannot be decoded (back, too)."""

    acknowledged: int
    kept: int
    undecodable: list[Foreign]


class DeadQueues:
    """The dead queues of one namespace. Each look has a connection of its own; memory holds ids, at most the ready count."""

    def __init__(self, url: str, topology: Topology):
        self._url = url
        self._topology = topology

    async def tidy(self, queue: str, stale: Stale, *, drop_undecodable: bool = False) -> Looked:
        """Acknowledge copies whose jobs have moved on (and, if asked, what cannot be decoded); give back the rest.

        Raises:
            BrokerDown: RabbitMQ cannot be reached, or was lost on the way; what was not acknowledged is still there.
        """
        async with self._held(queue) as messages:
            copies: list[tuple[Pointer, AbstractIncomingMessage]] = []
            foreign: list[Foreign] = []
            for message in messages:
                try:
                    copies.append((decode(message.body), message))
                except Undecodable as error:
                    foreign.append(Foreign(message.body, str(error), message))
            done = [each.message for each in foreign] if drop_undecodable else []
            for start in range(0, len(copies), _BATCH):
                batch = copies[start : start + _BATCH]
                old = await stale([pointer for pointer, _ in batch])
                done += [message for pointer, message in batch if pointer in old]
            for message in done:
                await message.ack()
            return Looked(len(done), len(messages) - len(done), foreign)

    @asynccontextmanager
    async def _held(self, queue: str) -> AsyncIterator[list[AbstractIncomingMessage]]:
        """All that is ready now, unacknowledged; closing the channel gives back what has not been acknowledged by then."""
        try:
            with client_calls():
                async with await connect(self._url, "dead letters") as connection:
                    await declare(await connection.channel(), self._topology)
                    channel = await connection.channel()
                    yield await _take(channel, self._topology.name(queue))
                    await channel.close()
        except BROKER_ERRORS as error:
            raise BrokerDown(str(error) or type(error).__name__) from error


async def _take(channel: AbstractChannel, name: str) -> list[AbstractIncomingMessage]:
    ready = (await channel.declare_queue(name, passive=True)).declaration_result.message_count or 0
    source, held = await channel.get_queue(name, ensure=False), asyncio.Queue[AbstractIncomingMessage]()
    tag = await source.consume(held.put)
    messages: list[AbstractIncomingMessage] = []
    try:
        while len(messages) < ready:
            async with asyncio.timeout(_SILENCE_SECONDS):
                messages.append(await held.get())
    except TimeoutError:
        pass  # fewer than were ready: another look, or a hand in the management UI, has them
    await source.cancel(tag)
    return messages
