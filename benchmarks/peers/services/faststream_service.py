"""FastStream: a durable quorum queue, confirmed persistent messages, acknowledgement after the handler, negative on errors.

https://faststream.ag2.ai/latest/rabbit/publishing/, https://faststream.ag2.ai/latest/rabbit/ack/
https://faststream.ag2.ai/latest/rabbit/declare/ (queue types)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from redis.asyncio import Redis
from starlette.applications import Starlette

from benchmarks.peers.services.web import AMQP, PROVIDER, REDIS, SLOTS, STATUS_SECONDS, service, status_in_redis

QUEUE = RabbitQueue("messages", durable=True, queue_type=QueueType.QUORUM)
broker = RabbitBroker(AMQP, default_channel=Channel(prefetch_count=SLOTS, publisher_confirms=True), log_level=10)
worker = FastStream(broker)
_redis = Redis.from_url(REDIS)


@worker.on_startup
async def _connect() -> None:
    worker.context.set_global("http", aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=SLOTS)))


@broker.subscriber(QUEUE, ack_policy=AckPolicy.NACK_ON_ERROR)
async def deliver(message: dict[str, str]) -> None:
    fields = {"destination": message["destination"], "body": message["body"]}
    async with worker.context.get("http").post(PROVIDER, json=fields) as answer:
        answer.raise_for_status()
    await _redis.set(f"status:{message['id']}", "sent", ex=STATUS_SECONDS)


@asynccontextmanager
async def _connected(_app: Starlette) -> AsyncIterator[None]:
    await broker.connect()
    await broker.declare_queue(QUEUE)
    yield
    await broker.stop()


async def _submit(destination: str, body: str) -> str:
    id_ = str(uuid4())
    await broker.publish({"id": id_, "destination": destination, "body": body}, QUEUE, persist=True)
    return id_


app = service(_submit, status_in_redis(), _connected)
