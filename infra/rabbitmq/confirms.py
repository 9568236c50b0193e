"""Publishing by the batch: one write for the frames of many messages, and one future for their confirms.

Frames: AMQP 0-9-1, section 4.2.3, "General Frame Format". Confirms: RabbitMQ, "Consumer Acknowledgements and Publisher
Confirms". A channel in confirm mode numbers its messages from 1. An answer with `multiple` covers all numbers up to its own.
"""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import structlog
from aiormq import spec
from aiormq.abc import AbstractConnection, ChannelFrame, ConfirmationFrameType
from aiormq.channel import Channel
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from jobs.wire import Pointer, encode

PERSISTENT = 2

log = structlog.get_logger()


class Message(Protocol):
    """A pointer to publish, with the headers of a dead letter. `traceparent`: of its job; it is not published."""

    @property
    def pointer(self) -> Pointer: ...
    @property
    def headers(self) -> Mapping[str, str | int] | None: ...
    @property
    def traceparent(self) -> str | None: ...


@dataclass(eq=False, slots=True)
class Batch:
    """Messages in one write. `confirmed` grows until `done` has a result: all are answered, or the channel is lost."""

    bodies: list[bytes]
    done: "asyncio.Future[None]"
    confirmed: list[bool] = field(init=False)
    returned: set[int] = field(default_factory=set)
    unanswered: int = field(init=False)

    def __post_init__(self) -> None:
        self.confirmed = [False] * len(self.bodies)
        self.unanswered = len(self.bodies)

    def answer(self, index: int, *, is_ack: bool) -> None:
        """Record the broker's answer. It confirms a returned message, too, which no queue has."""
        self.confirmed[index] = is_ack and index not in self.returned
        self.unanswered -= 1
        if not self.unanswered:
            self.end()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class ConfirmChannel(Channel):
    """A channel in confirm mode that publishes batches. Only `publish` may publish on it."""

    def __init__(self, connection: AbstractConnection):
        super().__init__(connection, max(connection.channels, default=0) + 1, publisher_confirms=True)
        connection.channels[self.number] = self
        self._unanswered: dict[int, tuple[Batch, int]] = {}  # batch and index by delivery tag, in the order of the tags
        self._tag = 0
        self._frame_max = connection.connection_tune.frame_max
        self.closing.add_done_callback(self._lost)

    async def publish(self, exchange: str, routing_key: str, messages: Sequence[Message]) -> Batch:
        """Write the messages, once the broker accepts publishing: a memory or disk alarm blocks it."""
        await self.connection.ready()
        batch = Batch([encode(message.pointer) for message in messages], asyncio.get_running_loop().create_future())
        if self.is_closed:
            batch.end()
            return batch
        method, number = _method_frame(self.number, exchange, routing_key), self.number
        frames, written = bytearray(), dict[int, tuple[Batch, int]]()
        for index, (message, body) in enumerate(zip(messages, batch.bodies, strict=True)):
            header = _header(number, len(body), message.headers) if message.headers else _plain_header(number, len(body))
            if len(header) > self._frame_max:  # the broker would close the connection
                log.error("publish.too_large", id=str(message.pointer.id), bytes=len(header))
                batch.answer(index, is_ack=False)
                continue
            written[self._tag + len(written) + 1] = batch, index
            frames += method + header + struct.pack(">BHI", 3, number, len(body)) + body + b"\xce"
        self.write_queue.put_nowait(ChannelFrame(payload=bytes(frames), should_close=False))
        self._unanswered |= written  # after the write: a tag that the broker has not counted would shift all later ones
        self._tag += len(written)
        return batch

    async def _on_confirm_frame(self, frame: ConfirmationFrameType) -> None:
        is_ack, last = isinstance(frame, spec.Basic.Ack), frame.delivery_tag or 0
        if not getattr(frame, "multiple", False):
            tags = [last]
        else:
            tags = []
            for tag in self._unanswered:
                if tag > last:
                    break
                tags.append(tag)
        for tag in tags:
            if tag in self._unanswered:
                batch, index = self._unanswered.pop(tag)
                batch.answer(index, is_ack=is_ack)

    async def _on_return_frame(self, frame: spec.Basic.Return) -> None:
        """No queue is bound. The confirm of the message follows. Equal messages in flight share the binding."""
        header = await self._get_frame()
        assert isinstance(header, ContentHeader)
        message = await self._read_content(frame, header)
        for batch, index in self._unanswered.values():
            if batch.bodies[index] == message.body:
                batch.returned.add(index)

    def _lost(self, _: object) -> None:
        for batch, _index in self._unanswered.values():
            batch.end()
        self._unanswered = {}


@lru_cache
def _method_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    return marshal(spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True), channel)


def _header(channel: int, size: int, headers: Mapping[str, str | int] | None = None) -> bytes:
    properties = spec.Basic.Properties(
        content_type="application/json", delivery_mode=PERSISTENT, headers=dict(headers) if headers else None
    )
    return marshal(ContentHeader(body_size=size, properties=properties), channel)


_plain_header = lru_cache(_header)  # messages without headers have few sizes
