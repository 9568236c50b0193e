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

    What one turn of the event loop settles is written together. `receive` must not block.
    """

    def __init__(self, connection: AbstractConnection, receive: "Callable[[DeliveryChannel, bytes, int, bool], None]"):
        super().__init__(connection, max(connection.channels, default=0) + 1)
        connection.channels[self.number] = self
        self._receive = receive
        self._unsettled: dict[int, None] = {}  # delivery tags in their order
        self._settled: dict[int, bool | None] = {}  # until the end of this turn: None: acknowledged, else whether requeued

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
        self._settle(tag, None)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Return a delivery to the queue, or move it to the dead queue. Harmless after the loss of the channel."""
        self._settle(tag, requeue)

    def _settle(self, tag: int, requeue: bool | None) -> None:
        """Settle a delivery once; the first call counts."""
        if tag in self._unsettled:
            if not self._settled:
                asyncio.get_running_loop().call_soon(self._write)
            self._settled.setdefault(tag, requeue)

    def _write(self) -> None:
        settled, self._settled = self._settled, {}
        if self.is_closed:
            log.debug("delivery.unsettled", jobs=len(settled), effect="the broker redelivers them, and their claims are stale")
            return
        rejected = {tag: requeue for tag, requeue in settled.items() if requeue is not None}
        frames: list[spec.Basic.Ack | spec.Basic.Reject] = [
            spec.Basic.Reject(delivery_tag=tag, requeue=requeue) for tag, requeue in rejected.items()
        ]
        for tag in rejected:  # before the acknowledgements, which must not cover them
            del self._unsettled[tag]
        frames += _acknowledgements(self._unsettled, settled.keys() - rejected.keys())
        self.write_queue.put_nowait(ChannelFrame.marshall(channel_number=self.number, frames=frames))
        for tag in settled.keys() - rejected.keys():
            del self._unsettled[tag]


def _acknowledgements(unsettled: Iterable[int], acknowledged: set[int]) -> list[spec.Basic.Ack]:
    """One frame for the tags before the first tag that stays unsettled, and one frame for each later tag."""
    first = 0  # the last tag of the frame with `multiple`
    for tag in unsettled:
        if tag not in acknowledged:
            break
        first = tag
    frames = [spec.Basic.Ack(delivery_tag=first, multiple=True)] if first else []
    return frames + [spec.Basic.Ack(delivery_tag=tag) for tag in sorted(acknowledged) if tag > first]
