"""Publishing by the batch: nacks, `multiple`, returns, lost channels, headers of any size."""

import asyncio
import struct
from typing import Any

import aiormq
import pamqp.frame
import pytest
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from infra.rabbitmq.confirms import Batch, ConfirmChannel
from jobs.wire import Pointer, decode, encode
from tests.support.factories import Outbound, new_id


class Connection(aiormq.Connection):
    """aiormq's connection without a broker. `unblocked`: whether the broker accepts publishing."""

    publisher_confirms = True

    def __init__(self) -> None:
        super().__init__("amqp://127.0.0.1")
        self.connection_tune = spec.Connection.Tune(frame_max=1000)
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    async def ready(self) -> None:
        await self.unblocked.wait()


def _channel() -> tuple[ConfirmChannel, Connection]:
    connection = Connection()
    return ConfirmChannel(connection), connection


def _messages(count: int, headers: dict[str, str | int] | None = None) -> list[Outbound]:
    return [Outbound(Pointer(new_id(), n + 1), headers) for n in range(count)]


async def _published(channel: ConfirmChannel, count: int) -> Batch:
    return await channel.publish("posthaste.jobs", "q", _messages(count))


async def _answer(channel: ConfirmChannel, *frames: Any) -> None:
    """Let the channel's own reader receive the broker's frames."""
    for frame in frames:
        channel.frames.put_nowait((0, frame))
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_batch_is_one_write_of_the_frames_that_amqp_demands() -> None:
    channel, connection = _channel()
    messages = [*_messages(1), *_messages(1, {"x-reason": "http_400", "x-attempts": 3})]
    await channel.publish("posthaste.jobs", "messages.sandbox.normal", messages)
    payload, frames = connection.write_queue.get_nowait().payload, []
    assert connection.write_queue.empty()
    while payload:
        length, number, frame = pamqp.frame.unmarshal(payload)
        assert number == channel.number
        frames.append(frame)
        payload = payload[length:]
    for message, (publish, header, body) in zip(messages, (frames[:3], frames[3:]), strict=True):
        assert isinstance(publish, spec.Basic.Publish)
        assert (publish.exchange, publish.routing_key, publish.mandatory) == ("posthaste.jobs", "messages.sandbox.normal", True)
        assert isinstance(header, ContentHeader) and header.properties.delivery_mode == 2
        assert header.properties.headers == message.headers
        assert isinstance(body, ContentBody) and decode(body.value) == message.pointer


async def test_a_nack_leaves_one_message_unconfirmed() -> None:
    channel, _ = _channel()
    batch = await _published(channel, 3)
    await _answer(channel, spec.Basic.Ack(1), spec.Basic.Nack(2))
    assert not batch.done.done()
    await _answer(channel, spec.Basic.Ack(3))
    assert batch.done.done() and batch.confirmed == [True, False, True]


@pytest.mark.parametrize(("answer", "confirmed"), [(spec.Basic.Ack, True), (spec.Basic.Nack, False)])
async def test_multiple_answers_all_messages_up_to_its_tag(answer: Any, confirmed: bool) -> None:
    channel, _ = _channel()
    first, second = await _published(channel, 2), await _published(channel, 2)
    await _answer(channel, spec.Basic.Ack(2), answer(3, multiple=True))
    assert first.done.done() and first.confirmed == [confirmed, True]
    assert not second.done.done() and second.confirmed == [confirmed, False]
    await _answer(channel, spec.Basic.Ack(4, multiple=True))
    assert second.confirmed == [confirmed, True]


async def test_a_returned_message_is_not_confirmed_by_the_ack_that_follows() -> None:
    channel, _ = _channel()
    messages = _messages(2)
    batch = await channel.publish("posthaste.jobs", "q", messages)
    body = encode(messages[1].pointer)
    returned = spec.Basic.Return(312, "NO_ROUTE", "posthaste.jobs", "q"), ContentHeader(body_size=len(body)), ContentBody(body)
    await _answer(channel, *returned, spec.Basic.Ack(2, multiple=True))
    assert batch.confirmed == [True, False] and batch.returned == {1}


async def test_a_lost_channel_ends_the_batch_with_the_confirms_so_far() -> None:
    channel, _ = _channel()
    batch = await _published(channel, 3)
    await _answer(channel, spec.Basic.Ack(1))
    await channel.close()
    await batch.done
    assert batch.confirmed == [True, False, False]
    late = await _published(channel, 1)
    assert late.done.done() and late.confirmed == [False]


async def test_a_blocked_connection_gets_no_frames() -> None:
    channel, connection = _channel()
    connection.unblocked.clear()
    publishing = asyncio.create_task(_published(channel, 1))
    await asyncio.sleep(0)
    assert connection.write_queue.empty()
    connection.unblocked.set()
    await publishing
    assert not connection.write_queue.empty()


async def test_a_header_that_exceeds_a_frame_is_not_sent() -> None:
    channel, connection = _channel()
    batch = await channel.publish("posthaste.dead", "q", [*_messages(1, {"x-reason": "x" * 1000}), *_messages(1)])
    assert struct.pack(">BH", 2, channel.number) in connection.write_queue.get_nowait().payload
    await _answer(channel, spec.Basic.Ack(1))
    assert batch.done.done() and batch.confirmed == [False, True]
