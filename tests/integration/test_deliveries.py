"""Deliveries on real RabbitMQ: acknowledged by the batch, and never a tag that is not settled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest

from infra.rabbitmq.consumer import Consumer, Delivery
from infra.rabbitmq.deliveries import _acknowledgements
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import Topology, describe
from jobs.model import Route, work_queues
from jobs.wire import Pointer, decode
from tests.support.factories import Outbound, new_id
from tests.support.services import Services, drop_namespace
from tests.support.waiting import eventually

QUEUE = "messages.sandbox.normal"


@asynccontextmanager
async def _consuming(services: Services, topology: Topology, count: int) -> AsyncIterator[list[Delivery]]:
    """Deliveries of `count` published messages, none settled."""
    publisher, received = Publisher(services.amqp, topology, name="test"), list[Delivery]()
    consumer = Consumer(services.amqp, topology, {QUEUE: 100}, name="test")
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(publisher.run()), group.create_task(consumer.run(received.append))]
        await publisher.connected.wait()
        messages = [Outbound(Pointer(new_id(), 1)) for _ in range(count)]
        assert await publisher.publish(Route.WORK, QUEUE, messages) == [None] * count

        async def deliveries() -> list[Delivery]:
            return received

        await eventually(deliveries, lambda them: len(them) == count)
        yield received
        for task in running:
            task.cancel()


async def _left(services: Services, topology: Topology) -> set[Pointer]:
    """The messages of the queue, once nobody consumes it."""
    async with await aio_pika.connect(services.amqp) as connection:
        queue = await (await connection.channel()).get_queue(topology.name(QUEUE))

        async def count() -> int | None:
            return (await queue.declare()).message_count

        await eventually(count, lambda ready: ready is not None)
        left: set[Pointer] = set()
        while message := await queue.get(fail=False, no_ack=True):
            left.add(decode(message.body))
        return left


@pytest.mark.parametrize("settled", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 1, 3], [1, 2], [4], []])
async def test_exactly_the_acknowledged_deliveries_are_removed(
    services: Services, broker_namespace: str, settled: list[int]
) -> None:
    topology = describe(broker_namespace, ["sandbox"])
    async with _consuming(services, topology, 5) as deliveries:
        pointers = [decode(delivery.body) for delivery in deliveries]
        for index in settled:
            await deliveries[index].ack()
        await asyncio.sleep(0)  # the end of the turn writes them
        for index in settled:
            await deliveries[index].ack()  # a second time: a tag that is settled closes the channel if it is sent again
        await asyncio.sleep(0)
        assert not deliveries[0].channel.is_closed and not deliveries[0].channel._settled
    kept = {pointer for index, pointer in enumerate(pointers) if index not in settled}
    assert await eventually_left(services, topology, kept) == kept


async def eventually_left(services: Services, topology: Topology, expected: set[Pointer]) -> set[Pointer]:
    """The messages that are left. The broker returns unsettled ones some milliseconds after the connection's end."""
    left: set[Pointer] = set()

    async def look() -> set[Pointer]:
        left.update(await _left(services, topology))
        return left

    return await eventually(look, lambda them: them >= expected)


async def test_a_requeued_delivery_is_not_covered_by_a_later_acknowledgement(services: Services, broker_namespace: str) -> None:
    topology = describe(broker_namespace, ["sandbox"])
    async with _consuming(services, topology, 3) as deliveries:
        first, second, third = deliveries
        await second.nack()
        await first.ack()
        await third.ack()

        async def again() -> list[Delivery]:
            return deliveries[3:]

        (redelivered,) = await eventually(again, bool)
        assert (decode(redelivered.body), redelivered.redelivered) == (decode(second.body), True)
        await second.ack()  # settled already
        await redelivered.ack()
        await asyncio.sleep(0)
    assert await _left(services, topology) == set()


def test_one_frame_covers_what_precedes_the_first_unsettled_delivery() -> None:
    frames = [(frame.delivery_tag, frame.multiple) for frame in _acknowledgements([3, 4, 6, 7, 8], {3, 4, 7, 8})]
    assert frames == [(4, True), (7, False), (8, False)]
    assert [(frame.delivery_tag, frame.multiple) for frame in _acknowledgements([3, 4], {3, 4})] == [(4, True)]
    assert _acknowledgements([3], set()) == []


async def test_many_deliveries_are_requeued_in_one_turn(services: Services, broker_namespace: str) -> None:
    """An opening breaker requeues all that wait. The client's write queue would hold ten frames."""
    topology = describe(broker_namespace, ["sandbox"])
    async with _consuming(services, topology, 60) as deliveries:
        first = deliveries[:60]
        for delivery in first:
            await delivery.nack()

        async def again() -> set[Pointer]:
            return {decode(delivery.body) for delivery in deliveries[60:]}

        await eventually(again, lambda pointers: len(pointers) == 60)


async def test_many_queues_are_published_in_one_turn(services: Services, broker_namespace: str) -> None:
    providers = [f"p{number}" for number in range(8)]
    topology = describe(broker_namespace, providers)
    publisher = Publisher(services.amqp, topology, name="test")
    running = asyncio.create_task(publisher.run())
    try:
        await publisher.connected.wait()
        for _ in range(2):  # the second round fails if the first has shifted the numbers of the confirms
            queues = [queue.name for queue in work_queues(providers) if queue.provider]
            publishing = [publisher.publish(Route.WORK, queue, [Outbound(Pointer(new_id(), 1))]) for queue in queues]
            assert await asyncio.gather(*publishing) == [[None]] * len(queues)
        assert [await publisher.ready_messages(queue) for queue in queues] == [2] * len(queues)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await drop_namespace(services.amqp, broker_namespace, providers)
