"""`posthaste sandbox`: an HTTP provider on loopback with configurable faults.

`POST /message {destination, body}` answers 200 `{"id": …}` unless a fault is drawn. Equal idempotency keys get equal ids.
`GET /stats` counts requests. `GET /messages` lists them in order of arrival. `GET /faults` lists the faults; `PUT /faults`
changes them in a running sandbox.
"""

import asyncio
import json
import random
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any
from uuid import uuid4

import typer
from aiohttp import web

from cli.terminal import exit_on

SANDBOX_PORT = 9007
OTHER_PORT = "; choose another port with --port"
LISTED = 100_000  # messages that GET /messages lists at most

Share = Annotated[float, typer.Option(min=0, max=1, help="Share of requests, 0 to 1.")]


def sandbox(
    host: Annotated[str, typer.Option(help="The address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = SANDBOX_PORT,
    fail: Share = 0.0,
    fail_status: Annotated[int, typer.Option(help="The HTTP status of failures.")] = 500,
    slow: Share = 0.0,
    slow_seconds: Annotated[float, typer.Option(help="The delay of slow answers.")] = 1.0,
    hang: Share = 0.0,
    reset: Share = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same faults.")] = None,
) -> None:
    """Run a provider on loopback with configurable faults. GET /faults lists them, PUT /faults changes them."""
    faults = Faults(fail, fail_status, slow=slow, slow_seconds=slow_seconds, hang=hang, reset=reset)
    provider = Sandbox(host, port, faults, random.Random(seed))  # noqa: S311  faults, not secrets

    async def serve_until_signal() -> None:
        serving = asyncio.create_task(provider.serve())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with suppress(asyncio.CancelledError):
            await serving

    with exit_on(OSError, subject=f"cannot listen on {host}:{port}: ", hint=OTHER_PORT):
        asyncio.run(serve_until_signal())


# Answers end with a newline, for terminals.
_answer = partial(web.json_response, dumps=lambda value: json.dumps(value) + "\n")


@dataclass(frozen=True)
class Faults:
    """Shares (0 to 1) of requests with each fault, and seconds without a listening socket."""

    fail: float = 0.0
    fail_status: int = 500
    retry_after: float = 0.0  # seconds; 0: failures have no Retry-After
    slow: float = 0.0
    slow_seconds: float = 1.0
    hang: float = 0.0
    reset: float = 0.0
    refuse_seconds: float = 0.0

    def changed(self, fields: dict[str, Any]) -> "Faults":
        """Replace some fields. Raises ValueError for an unknown field, or a value that is not a number in range."""
        known = asdict(self)
        for name, value in fields.items():
            if name not in known:
                raise ValueError(f"{name}: unknown; the fields are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{name}: must be a number from 0")
            if name in ("fail", "slow", "hang", "reset") and value > 1:
                raise ValueError(f"{name}: must be a share from 0 to 1")
            if name == "fail_status" and not 100 <= value <= 599:
                raise ValueError("fail_status: must be an HTTP status")
        return replace(self, **fields)


@dataclass
class Sandbox:
    """The provider: its faults, its counts and the requests that it received."""

    host: str
    port: int
    faults: Faults
    draw: random.Random
    raw: int = 0
    accepted: int = 0
    ids: dict[str, str] = field(default_factory=dict)  # of accepted messages, by idempotency key
    messages: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LISTED))
    refuse: asyncio.Event = field(default_factory=asyncio.Event)
    on_request: Callable[[dict[str, Any]], None] | None = None  # called with each request

    async def message(self, request: web.Request) -> web.StreamResponse:
        try:
            fields = await request.json()
            destination, body = fields["destination"], fields["body"]
        except (json.JSONDecodeError, KeyError, TypeError):
            return _answer({"error": "destination and body are required"}, status=400)
        self.raw += 1
        key = request.headers.get("Idempotency-Key", "")
        entry = {"destination": destination, "body": body, "idempotency_key": key, "answer": None}
        self.messages.append(entry)
        if self.on_request is not None:
            self.on_request(entry)
        fault, faults = self._draw_fault(), self.faults
        if fault == "hang":
            entry["answer"] = "hang"
            await asyncio.sleep(3600)
        if fault == "reset" and request.transport is not None:
            entry["answer"] = "reset"
            request.transport.abort()
            return web.Response()
        if fault == "fail":
            entry["answer"] = faults.fail_status
            wait = {"Retry-After": f"{faults.retry_after:.0f}"} if faults.retry_after else {}
            return web.Response(status=int(faults.fail_status), text="injected failure", headers=wait)
        if fault == "slow":
            await asyncio.sleep(faults.slow_seconds)
        entry["answer"] = 200
        self.accepted += 1
        return _answer({"id": self.ids.setdefault(key, f"sandbox-{uuid4()}")})

    def _draw_fault(self) -> str | None:
        """The name of one fault, drawn by the faults' shares."""
        drawn = self.draw.random()
        for name in ("hang", "reset", "fail", "slow"):
            drawn -= getattr(self.faults, name)
            if drawn < 0:
                return name
        return None

    async def stats(self, request: web.Request) -> web.Response:
        """Count `raw` requests, `accepted` requests (answered with 200) and their `unique` idempotency keys."""
        counts = {"raw": self.raw, "accepted": self.accepted, "unique": len(self.ids)}
        return _answer({**counts, "faults": asdict(self.faults)})

    async def listing(self, request: web.Request) -> web.Response:
        return _answer(list(self.messages))

    async def get_faults(self, request: web.Request) -> web.Response:
        return _answer(asdict(self.faults))

    async def set_faults(self, request: web.Request) -> web.Response:
        try:
            fields = await request.json()
            if not isinstance(fields, dict):
                raise ValueError("must be a JSON object")
            self.faults = self.faults.changed(fields)
        except (json.JSONDecodeError, ValueError) as error:
            return _answer({"error": str(error)}, status=422)
        if self.faults.refuse_seconds:
            self.refuse.set()
        return _answer(asdict(self.faults))

    async def serve(self) -> None:
        """Answer until cancelled; `refuse_seconds` closes the listening socket. Raises OSError if the port is in use."""
        app = web.Application()
        app.router.add_post("/message", self.message)
        app.router.add_get("/stats", self.stats)
        app.router.add_get("/messages", self.listing)
        app.router.add_get("/faults", self.get_faults)
        app.router.add_put("/faults", self.set_faults)
        runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            while True:
                site = web.TCPSite(runner, self.host, self.port, reuse_address=True)
                await site.start()
                await self.refuse.wait()
                await site.stop()
                self.refuse.clear()
                seconds, self.faults = self.faults.refuse_seconds, replace(self.faults, refuse_seconds=0.0)
                await asyncio.sleep(seconds)
        finally:
            await runner.cleanup()
