"""Taskiq: a durable quorum queue, confirmed persistent messages, acknowledgement once the result is saved in Redis.

https://taskiq-python.github.io/available-components/brokers.html
https://taskiq-python.github.io/guide/cli.html (acknowledgement, simultaneous tasks, prefetch)
https://github.com/taskiq-python/taskiq-aio-pika (queues, qos)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

from benchmarks.peers.services.web import AMQP, PROVIDER, REDIS, SLOTS, STATUS_SECONDS, service

_results: RedisAsyncResultBackend[None] = RedisAsyncResultBackend(REDIS, result_ex_time=STATUS_SECONDS)
broker = AioPikaBroker(AMQP, qos=2 * SLOTS).with_queue(Queue(name="messages", type=QueueType.QUORUM))
broker = broker.with_result_backend(_results)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def _connect(state: TaskiqState) -> None:
    state.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=SLOTS))


@broker.task
async def deliver(destination: str, body: str) -> None:
    async with broker.state.http.post(PROVIDER, json={"destination": destination, "body": body}) as answer:
        answer.raise_for_status()


@asynccontextmanager
async def _connected(_app: Starlette) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


async def _submit(destination: str, body: str) -> str:
    task = await deliver.kiq(destination, body)
    return str(task.task_id)


async def _read(id_: str) -> str:
    return "sent" if await _results.is_result_ready(id_) else "queued"


app = service(_submit, _read, _connected)
