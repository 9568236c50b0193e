"""Three job queues in one run: a Redis Stream, RabbitMQ alone, and Posthaste with its ledger.

The provider answers at once, so the queue is measured alone.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aio_pika
import aiohttp
import redis

from benchmarks.load import clients
from dev.stack import local_sandbox, service
from examples.redis_queue import Queue
from service.settings import Settings

JOBS = 5_000
SECONDS = 5.0
WORKERS = 2
STREAM, RABBIT = "posthaste-benchmark-stream", "posthaste-benchmark-queue"


async def stream_or_rabbitmq(settings: Settings) -> None:
    """Submit sequentially to two workers. Then measure the whole service with one client and with 50."""
    print(f"{JOBS:,} jobs, submitted sequentially to {WORKERS} workers; the provider answers at once")
    await asyncio.to_thread(_stream, settings.redis_url)
    await _rabbitmq(settings.amqp_url)
    await _posthaste(settings)


def _stream(url: str) -> None:
    queue = Queue(redis.Redis.from_url(url, decode_responses=True), STREAM)
    worker = ["examples.redis_queue", "--redis", url, "--prefix", STREAM, "work", "--provider-seconds", "0"]

    def until_sent(ids: list[str]) -> None:
        while any(queue.status(id_) != "sent" for id_ in ids[-WORKERS:]):
            time.sleep(0.005)

    try:
        with _workers(worker):
            until_sent([queue.submit("+15550001", "warm up") for _ in range(100)])
            started = time.monotonic()
            ids = [queue.submit("+15550001", f"Hello {n}") for n in range(JOBS)]
            submitted = time.monotonic()
            until_sent(ids)
            _print("Redis Stream (examples/redis_queue.py)", started, submitted)
    finally:
        queue.delete()


async def _rabbitmq(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(RABBIT, durable=True, arguments={"x-queue-type": "quorum"})

        async def submit(count: int) -> None:
            for n in range(count):
                message = aio_pika.Message(b"+15550001 Hello %d" % n, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, RABBIT)

        async def until_empty() -> None:  # the workers prefetch up to 20 messages
            while (await channel.declare_queue(RABBIT, passive=True)).declaration_result.message_count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

        try:
            with _workers(["benchmarks.rabbitmq_worker", url, RABBIT]):
                await submit(100)
                await until_empty()
                started = time.monotonic()
                await submit(JOBS)
                submitted = time.monotonic()
                await until_empty()
                _print("RabbitMQ (a quorum queue, confirms, single acks)", started, submitted)
        finally:
            await queue.delete(if_unused=False, if_empty=False)


async def _posthaste(settings: Settings) -> None:
    sandbox = local_sandbox()
    async with service(settings, "benchmark", sandbox, {}) as (session, _):
        for count in (1, 50):
            before, started = len(sandbox.ids), time.monotonic()
            measurement = await clients(count, SECONDS, lambda: _submit(session))
            while len(sandbox.ids) - before < measurement.statuses[202]:  # noqa: ASYNC110  the sandbox does not notify
                await asyncio.sleep(0.005)
            done = measurement.statuses[202] / (time.monotonic() - started)
            print(f"  Posthaste, {count} clients: {measurement}; all sent at {done:.0f}/s by one worker")


async def _submit(session: aiohttp.ClientSession) -> int:
    async with session.post("/messages", json={"destination": "+15550001", "body": "Hello"}) as response:
        await response.read()
        return response.status


@contextmanager
def _workers(module: list[str]) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-m", *module]) for _ in range(WORKERS)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _print(name: str, started: float, submitted: float) -> None:
    done = time.monotonic() - started
    print(f"  {name}: {JOBS / (submitted - started):.0f} submitted/s, {JOBS / done:.0f} done/s")
