"""Processor time of one request, in process: the API's application on real services, without a socket and a load generator.

Processor time depends little on what else the machine does; requests a second depend on it entirely.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import structlog
import uvloop
from starlette.types import ASGIApp, Message

from api.app import create_api
from dev.databases import create_database, drop_database
from infra import logs
from infra.postgres import migration
from infra.rabbitmq.topology import delete, describe
from infra.supervision import collect_rarely
from service.provider_settings import ProviderSettings
from service.settings import Settings

CLIENTS, REQUESTS, WARM_UP = 64, 6000, 500
NAMESPACE = "posthaste-processor"
BODY = json.dumps({"destination": "+15550001", "body": "Hello there, this is a message of a usual length."}).encode()
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def processor_of_a_request(settings: Settings) -> None:
    """Accept messages and read statuses with 64 concurrent clients; print the processor time of each."""
    print(f"processor time of one request, {CLIENTS} clients in process, one line logged for each message")
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # noqa: ASYNC230  12,000 lines
        await _print_all(settings)


async def _print_all(settings: Settings) -> None:
    print(f"  a log line: {_of_a_log_line():.1f} us")
    database = create_database(settings.owner_url, "posthaste_processor")
    migration.migrate(database, NAMESPACE)
    try:
        await asyncio.to_thread(uvloop.run, _measure(settings, database))
    finally:
        drop_database(settings.owner_url, "posthaste_processor")


def _of_a_log_line(lines: int = 5000) -> float:
    """Microseconds of one line, its writing included."""
    logs.configure("info", json=False)
    log, started = structlog.get_logger("a logger of its own"), time.process_time()
    for n in range(lines):
        log.info("job.queued", id="01a2276a-43a6-7284-a3f7-50fc8687d4cb", version=n, queue="messages.sandbox.normal")
    time.sleep(0.2)
    return (time.process_time() - started) / lines * 1e6


async def _measure(settings: Settings, database: str) -> None:
    providers = {"sandbox": ProviderSettings(url="http://127.0.0.1:9/message")}
    app, _ = create_api(
        settings.model_copy(update={"database_url": database, "namespace": NAMESPACE, "providers": providers}), print
    )
    events: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(_serve(app, {"type": "lifespan", "state": {}}, events.get, answers.put))
    await events.put({"type": "lifespan.startup"})
    await answers.get()
    while await _request(app, "GET", "/health/ready") != 200:  # noqa: ASYNC110  no notification exists
        await asyncio.sleep(0.1)
    ids: list[str] = []
    await _repeat(WARM_UP, lambda _: _request(app, "POST", "/messages", ids))
    collect_rarely()
    accept = await _repeat(REQUESTS, lambda _: _request(app, "POST", "/messages"))
    status = await _repeat(REQUESTS, lambda n: _request(app, "GET", f"/message/{ids[n % len(ids)]}/status"))
    print(f"  an accepted message: {accept:.0f} us; a status: {status:.0f} us")
    await events.put({"type": "lifespan.shutdown"})
    await lifespan
    async with await aio_pika.connect(settings.amqp_url) as connection:
        await delete(await connection.channel(), describe(NAMESPACE, providers))


async def _serve(app: ASGIApp, scope: dict[str, Any], receive: Any, send: Any) -> None:
    await app(scope, receive, send)


async def _repeat(count: int, request: Callable[[int], Awaitable[int]]) -> float:
    """Microseconds of this process for one request, its threads included. Every answer must be a success."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            if (status := await request(number)) not in (200, 202):
                raise RuntimeError(f"request {number} was answered with {status}")

    started = time.process_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return (time.process_time() - started) / count * 1e6


async def _request(app: ASGIApp, method: str, path: str, ids: list[str] | None = None) -> int:
    """Send one request; the status. `ids` collects the id of the answer."""
    status, unread = 0, True
    scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b"", "headers": HEADERS}

    async def receive() -> Message:
        nonlocal unread
        if not unread:
            await asyncio.Event().wait()
        unread = False
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        if ids is not None and message.get("body"):
            with suppress(KeyError):
                ids.append(orjson.loads(message["body"])["id"])

    await app({**scope, "client": ("127.0.0.1", 1)}, receive, send)
    return status
