"""Publishing: persistent, mandatory, and done only when the broker has confirmed it."""

import asyncio
import itertools

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, FieldValue
from aio_pika.exceptions import PublishError

from infra.errors import Transient
from infra.rabbitmq.connection import BROKER_ERRORS, SessionOver, client_calls, keep_connected
from infra.rabbitmq.topology import Topology
from jobs.model import Route
from jobs.wire import CONTENT_TYPE, Pointer, encode

CONFIRM_SECONDS = 10.0

log = structlog.get_logger()


class NotPublished(Transient):
    """The broker did not confirm the message. It may be in its queue all the same; the outbox still has it."""


class Publisher:
    """One connection and channel for publishing alone: a memory alarm blocks publishers, and must not block consumers.

    `run()` keeps it connected; `publish()` waits for the confirm; `connected` is set while there is a channel.
    """

    def __init__(self, url: str, topology: Topology, *, name: str):
        self._url = url
        self._topology = topology
        self._name = name
        self._exchanges: dict[Route, AbstractExchange] = {}
        self._depths: AbstractChannel | None = None
        self._counter = itertools.count()
        self._broken = asyncio.Event()
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Keep connected until cancelled."""
        await keep_connected(self._url, self._topology, self._session, name=f"{self._name} publisher")

    async def _session(self, connection: AbstractConnection) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchanges = {route: await channel.get_exchange(self._topology.exchange(route), ensure=False) for route in Route}
        self._depths = await connection.channel()  # a queue that is missing closes the channel that asks for it
        self._broken.clear()
        for either in (channel, self._depths):
            either.close_callbacks.add(lambda *_: self._broken.set())
        self.connected.set()
        try:
            await self._broken.wait()
            raise SessionOver("the publishing channel was lost, or a queue is missing")
        finally:
            self.connected.clear()
            self._exchanges = {}
            self._depths = None

    async def publish(self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None) -> None:
        """Send one message to its logical queue and wait for the confirm.

        Raises:
            NotPublished: not connected, refused, unroutable or not confirmed within 10 s.
        """
        exchange = self._exchanges.get(route)
        if exchange is None:
            raise NotPublished("there is no connection to the broker")
        message = aio_pika.Message(
            encode(pointer),
            content_type=CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            # Unique among the publishes in flight: the client finds a returned message's confirm by it.
            message_id=f"{pointer.id}.{pointer.version}.{next(self._counter)}",
            headers=dict[str, FieldValue](headers or {}),
        )
        try:
            # The client's own timeout does not cover waiting for a connection that the broker has blocked.
            with client_calls():
                async with asyncio.timeout(CONFIRM_SECONDS):
                    await exchange.publish(message, routing_key=queue, mandatory=True)
        except PublishError as error:
            self._broken.set()  # a queue or binding is gone: connecting anew declares it again
            raise NotPublished(f"no queue takes {queue}") from error
        except Exception as error:  # besides its named errors the client raises a bare Exception on what waits at a close
            raise NotPublished(str(error) or type(error).__name__) from error

    async def ready_messages(self, queue: str) -> int:
        """How many messages of a logical queue are ready for a consumer.

        Raises:
            NotPublished: the broker cannot say.
        """
        channel = self._depths
        if channel is None:
            raise NotPublished("there is no connection to the broker")
        try:
            with client_calls():
                async with asyncio.timeout(CONFIRM_SECONDS):
                    declared = await channel.declare_queue(self._topology.name(queue), passive=True)
        except BROKER_ERRORS as error:
            raise NotPublished(str(error) or type(error).__name__) from error
        return declared.declaration_result.message_count or 0
