"""The API in the test's own process: its lifespan, and requests without a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.types import ASGIApp, Message

from api.app import create_api
from service.provider_settings import ProviderSettings
from service.settings import Settings
from tests.support.services import Services


def api(services: Services, database: str, namespace: str, **settings: Any) -> ASGIApp:
    """The API on these services."""
    urls: dict[str, Any] = {"database_url": database, "amqp_url": services.amqp, "redis_url": services.redis}
    providers = {"sandbox": ProviderSettings(url="http://127.0.0.1:9/message")}
    return create_api(Settings(**urls, namespace=namespace, providers=providers, **settings), lambda error: None)[0]


@asynccontextmanager
async def started(app: ASGIApp) -> AsyncIterator[None]:
    """Start the application; shut it down afterwards."""
    events: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()

    async def run() -> None:
        await app({"type": "lifespan", "state": {}}, events.get, answers.put)

    task = asyncio.create_task(run())
    await events.put({"type": "lifespan.startup"})
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await events.put({"type": "lifespan.shutdown"})
        await task


async def call(
    app: ASGIApp, path: str, method: str = "GET", headers: dict[str, str] | None = None, content: bytes = b""
) -> tuple[int, Any]:
    """Send one request to localhost; return the status and the JSON. `headers` may change the host."""
    listed = {"host": "localhost", **{name.lower(): value for name, value in (headers or {}).items()}}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in listed.items()],
        "client": ("127.0.0.1", 1),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], orjson.loads(body) if body else None
