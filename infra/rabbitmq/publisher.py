"""Publishing: persistent, mandatory, and complete only with the broker's confirm."""

import asyncio
from collections.abc import Sequence

from aio_pika.abc import AbstractChannel, AbstractConnection

from infra.errors import Transient
from infra.rabbitmq.confirms import ConfirmChannel, Message
from infra.rabbitmq.connection import BROKER_ERRORS, client_calls, keep_connected, raise_cancellation
from infra.rabbitmq.topology import Topology
from jobs.model import Route

CONFIRM_SECONDS = 10.0


class NotPublished(Transient):
    """The broker did not confirm the message. The queue may have it; the outbox still has its row."""


class Publisher:
    """Publishes on its own connection: a memory alarm blocks publishers, and must not block consumers.

    `run()` keeps it connected until cancelled; `publish()` waits for confirms; `connected` is set while the channel is open.
    """

    def __init__(self, url: str, topology: Topology, *, name: str):
        self._url = url
        self._topology = topology
        self._name = name
        self._channel: ConfirmChannel | None = None
        self._depths: AbstractChannel | None = None
        self._broken = asyncio.Event()
        self.connected = asyncio.Event()

    async def run(self) -> None:
        await keep_connected(self._url, self._topology, self._session, name=f"{self._name} publisher")

    async def _session(self, connection: AbstractConnection) -> str:
        self._depths = await connection.channel()  # a missing queue closes the channel that inspects it
        assert connection.transport is not None
        channel = ConfirmChannel(connection.transport.connection)
        await channel.open()
        raise_cancellation()
        self._broken.clear()
        self._depths.close_callbacks.add(lambda *_: self._broken.set())
        channel.closing.add_done_callback(lambda _: self._broken.set())
        self._channel = channel  # not before it is open: the broker numbers messages from its confirm mode on
        self.connected.set()
        try:
            await self._broken.wait()
            return "the publishing channel was lost, or a queue is missing"
        finally:
            self.connected.clear()
            self._channel = self._depths = None

    async def publish(self, route: Route, queue: str, messages: Sequence[Message]) -> list[NotPublished | None]:
        """Send messages to a logical queue in one write, and wait for the confirms. An error for each without a confirm.

        Raises NotPublished: not connected, or the broker accepts no messages for 10 s.
        """
        if (channel := self._channel) is None:
            raise NotPublished("there is no connection to the broker")
        error, batch = NotPublished(f"no confirm within {CONFIRM_SECONDS:g} s"), None
        try:
            with client_calls():
                async with asyncio.timeout(CONFIRM_SECONDS):
                    batch = await channel.publish(self._topology.exchange(route), queue, messages)
                    await batch.done
                error = NotPublished("the broker rejected the message, or its channel was lost")
        except BROKER_ERRORS as broker_error:
            if batch is None:
                raise NotPublished(str(broker_error) or str(error)) from broker_error
        if batch.returned:
            self._broken.set()  # a queue or binding is missing: reconnecting declares it
            error = NotPublished(f"no queue is bound to {queue}")
        return [None if is_confirmed else error for is_confirmed in batch.confirmed]

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
