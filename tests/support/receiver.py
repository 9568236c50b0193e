"""A callback receiver on loopback: it records every request and gives the answers that the test chose."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs="

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

# Settings of a stack that calls receivers on loopback.
CALLBACKS_ON: dict[str, Any] = {
    "callback_secrets": json.dumps([SECRET]),
    "callback_allow": '["127.0.0.0/8"]',
    "callback_timeout_seconds": "1",
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """One raw request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> Any:
        """The event, after the reference implementation has verified its signature."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """The first requests get one of `answers` each; every later one gets `answer`."""

    port: int = 0
    answer: int = 204
    answers: list[int | Answer] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path_qs, headers, await request.read()))
        answer = self.answers.pop(0) if self.answers else self.answer
        if isinstance(answer, int):
            return web.Response(status=answer)
        return await answer(request)


@asynccontextmanager
async def receiving(**settings: Any) -> AsyncIterator[Receiver]:
    """Start a receiver."""
    receiver = Receiver(**settings)
    async with serving_on_loopback(receiver):
        yield receiver


@asynccontextmanager
async def serving_on_loopback(receiver: Receiver) -> AsyncIterator[None]:
    """Serve a receiver on a free port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver._receive)
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield
    finally:
        await runner.cleanup()
