"""Publishing: persistent, mandatory, and complete only with the broker's confirm."""

import asyncio
import itertools

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, FieldValue
from aio_pika.exceptions import PublishError

from infra.errors import Transient
from infra.rabbitmq.connection import BROKER_ERRORS, client_calls, keep_connected
from infra.rabbitmq.topology import Topology
from jobs.model import Route
from jobs.wire import Pointer, encode

CONFIRM_SECONDS = 10.0


class NotPublished(Transient):
    """The broker did not confirm the message. The queue may have it; the outbox still has its row."""


class Publisher:
    """Publishes on its own connection: a memory alarm blocks publishers, and must not block consumers.

    `run()` keeps it connected until cancelled; `publish()` waits for the confirm; `connected` is set while the channel is open.
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
        await keep_connected(self._url, self._topology, self._session, name=f"{self._name} publisher")

    async def _session(self, connection: AbstractConnection) -> str:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._exchanges = {route: await channel.get_exchange(self._topology.exchange(route), ensure=False) for route in Route}
        self._depths = await connection.channel()  # a missing queue closes the channel that inspects it
        self._broken.clear()
        for open_channel in (channel, self._depths):
            open_channel.close_callbacks.add(lambda *_: self._broken.set())
        self.connected.set()
        try:
            await self._broken.wait()
            return "the publishing channel was lost, or a queue is missing"
        finally:
            self.connected.clear()
            self._exchanges = {}
            self._depths = None

    async def publish(self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None) -> None:
        """Send one message to its logical queue and wait for the confirm.

        Raises NotPublished: not connected, rejected, unroutable or not confirmed within 10 s.
        """
        if (exchange := self._exchanges.get(route)) is None:
            raise NotPublished("there is no connection to the broker")
        message = aio_pika.Message(
            encode(pointer),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            # Unique in flight: the client matches a returned message with its confirm by this id.
            message_id=f"{pointer.id}.{pointer.version}.{next(self._counter)}",
            headers=dict[str, FieldValue](headers or {}),
        )
        try:
            # The client's own timeout does not cover a blocked connection.
            with client_calls():
                async with asyncio.timeout(CONFIRM_SECONDS):
                    await exchange.publish(message, routing_key=queue, mandatory=True)
        except PublishError as error:
            self._broken.set()  # a queue or binding is missing: reconnecting declares it
            raise NotPublished(f"no queue is bound to {queue}") from error
        except Exception as error:  # at a close the client also raises a bare Exception
            raise NotPublished(str(error) or type(error).__name__) from error

    async def ready_messages(self, queue: str) -> int:
        """The messages of a logical queue that are ready for a consumer. Raises NotPublished: the broker does not answer."""
        if self._depths is None:
            raise NotPublished("there is no connection to the broker")
        try:
            with client_calls():
                async with asyncio.timeout(CONFIRM_SECONDS):
                    declared = await self._depths.declare_queue(self._topology.name(queue), passive=True)
        except BROKER_ERRORS as error:
            raise NotPublished(str(error) or type(error).__name__) from error
        return declared.declaration_result.message_count or 0
