"""Deliveries without an object and a task of the client each, and acknowledgements by the batch.

AMQP 0-9-1, section 1.8.3.13: an acknowledgement with `multiple` covers all outstanding delivery tags up to its own. The
tags of a channel count from 1.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog
from aiormq import spec
from aiormq.abc import AbstractConnection, ChannelFrame
from aiormq.channel import Channel
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

log = structlog.get_logger()


class DeliveryChannel(Channel):
    """A channel that consumes. `receive` gets each delivery: this channel, body, delivery tag, and whether it is redelivered.

    The acknowledgements of one turn of the event loop are written together. `receive` must not block.
    """

    def __init__(self, connection: AbstractConnection, receive: "Callable[[DeliveryChannel, bytes, int, bool], None]"):
        super().__init__(connection, max(connection.channels, default=0) + 1)
        connection.channels[self.number] = self
        self._receive = receive
        self._unsettled: dict[int, None] = {}  # delivery tags in their order
        self._acknowledged: set[int] = set()  # until the end of this turn

    async def _on_deliver_frame(self, frame: spec.Basic.Deliver) -> None:
        header, body = await self._get_frame(), bytearray()
        assert isinstance(header, ContentHeader) and frame.delivery_tag is not None
        while len(body) < (header.body_size or 0):
            content = await self._get_frame()
            assert isinstance(content, ContentBody)
            body += content.value
        self._unsettled[frame.delivery_tag] = None
        self._receive(self, bytes(body), frame.delivery_tag, bool(frame.redelivered))

    def ack(self, tag: int) -> None:
        """Acknowledge a delivery. After the loss of the channel the broker redelivers it instead."""
        if not self._acknowledged:
            asyncio.get_running_loop().call_soon(self._write_acknowledgements)
        self._acknowledged.add(tag)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Return a delivery to the queue, or move it to the dead queue. Harmless after the loss of the channel."""
        if tag in self._unsettled:
            del self._unsettled[tag]
            self._write([spec.Basic.Reject(delivery_tag=tag, requeue=requeue)])

    def _write_acknowledgements(self) -> None:
        acknowledged, self._acknowledged = self._acknowledged & self._unsettled.keys(), set()
        self._write(_acknowledgements(self._unsettled, acknowledged))
        for tag in acknowledged:
            del self._unsettled[tag]

    def _write(self, frames: Iterable[spec.Basic.Ack | spec.Basic.Reject]) -> None:
        if self.is_closed:
            log.debug("delivery.unsettled", effect="the broker redelivers it, and its next claim is stale")
            return
        for frame in (frames := list(frames)):
            frame.validate()
        if frames:
            self.write_queue.put_nowait(ChannelFrame.marshall(channel_number=self.number, frames=frames))


def _acknowledgements(unsettled: Iterable[int], acknowledged: set[int]) -> list[spec.Basic.Ack]:
    """One frame for the tags before the first tag that stays unsettled, and one frame for each later tag."""
    first = 0  # the last tag of the frame with `multiple`
    for tag in unsettled:
        if tag not in acknowledged:
            break
        first = tag
    frames = [spec.Basic.Ack(delivery_tag=first, multiple=True)] if first else []
    return frames + [spec.Basic.Ack(delivery_tag=tag) for tag in sorted(acknowledged) if tag > first]
