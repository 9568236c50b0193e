"""The sandbox: a stand-alone HTTP provider on loopback, like the exercise's, that fails as asked and counts what it gets.

`POST /message {destination, body}` answers 200 `OK`, unless a fault is drawn. `GET /stats` counts, `GET /messages` lists in
order of arrival, `PUT /faults` changes the faults while it runs.
"""

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aiohttp import web

KEPT = 100_000  # messages that GET /messages can list


@dataclass(frozen=True)
class Faults:
    """Shares (0 to 1) of requests that fail, are slow, hang or are reset; and seconds without any listening socket."""

    fail: float = 0.0
    fail_status: int = 500
    retry_after: float = 0.0  # seconds; 0: failures do not say when to come back
    slow: float = 0.0
    slow_seconds: float = 1.0
    hang: float = 0.0
    reset: float = 0.0
    refuse_seconds: float = 0.0

    def changed(self, fields: dict[str, Any]) -> "Faults":
        """These faults with some fields replaced.

        Raises:
            ValueError: an unknown field, or a value that is not a number in range.
        """
        known = asdict(self)
        for name, value in fields.items():
            if name not in known:
                raise ValueError(f"{name}: unknown; there are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{name}: must be a number from 0")
            if name in ("fail", "slow", "hang", "reset") and value > 1:
                raise ValueError(f"{name}: must be a share from 0 to 1")
            if name == "fail_status" and not 100 <= value <= 599:
                raise ValueError("fail_status: must be an HTTP status")
        return replace(self, **fields)


@dataclass
class Sandbox:
    """The provider's state: what it was sent, and which faults it has."""

    host: str
    port: int
    faults: Faults
    draw: random.Random
    raw: int = 0
    accepted: int = 0
    keys: set[str] = field(default_factory=set)
    messages: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    refuse: asyncio.Event = field(default_factory=asyncio.Event)
    on_request: Callable[[dict[str, Any]], None] | None = None  # told of each request as it comes in

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/message", self.message),
                web.get("/stats", self.stats),
                web.get("/messages", self.listing),
                web.put("/faults", self.set_faults),
            ]
        )
        return app

    async def message(self, request: web.Request) -> web.StreamResponse:
        try:
            fields = await request.json()
            destination, body = fields["destination"], fields["body"]
        except (json.JSONDecodeError, KeyError, TypeError):
            return web.json_response({"error": "destination and body are required"}, status=400)
        self.raw += 1
        key = request.headers.get("Idempotency-Key", "")
        entry = {"destination": destination, "body": body, "idempotency_key": key, "answer": None}
        self.messages.append(entry)
        if self.on_request is not None:
            self.on_request(entry)
        faults, drawn = self.faults, self.draw.random()
        if drawn < faults.hang:
            entry["answer"] = "hang"
            await asyncio.sleep(3600)
        drawn -= faults.hang
        if 0 <= drawn < faults.reset and request.transport is not None:
            entry["answer"] = "reset"
            request.transport.abort()
            return web.Response()
        drawn -= faults.reset
        if 0 <= drawn < faults.fail:
            entry["answer"] = faults.fail_status
            wait = {"Retry-After": f"{faults.retry_after:.0f}"} if faults.retry_after else {}
            return web.Response(status=int(faults.fail_status), text="failed, as asked", headers=wait)
        drawn -= faults.fail
        if 0 <= drawn < faults.slow:
            await asyncio.sleep(faults.slow_seconds)
        entry["answer"] = 200
        self.accepted += 1
        self.keys.add(key)
        return web.Response(text="OK")

    async def stats(self, request: web.Request) -> web.Response:
        """`raw` requests received, `accepted` answered with 200, `unique` idempotency keys among those."""
        counts = {"raw": self.raw, "accepted": self.accepted, "unique": len(self.keys)}
        return web.json_response({**counts, "faults": asdict(self.faults)})

    async def listing(self, request: web.Request) -> web.Response:
        return web.json_response(list(self.messages))

    async def set_faults(self, request: web.Request) -> web.Response:
        try:
            fields = await request.json()
            if not isinstance(fields, dict):
                raise ValueError("must be a JSON object")
            self.faults = self.faults.changed(fields)
        except (json.JSONDecodeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=422)
        if self.faults.refuse_seconds:
            self.refuse.set()
        return web.json_response(asdict(self.faults))

    async def serve(self, stop: asyncio.Event) -> None:
        """Answer until `stop`; whenever asked to, stop listening for `refuse_seconds`.

        Raises:
            OSError: the port is taken.
        """
        runner = web.AppRunner(self.app(), handle_signals=False, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            while not stop.is_set():
                site = web.TCPSite(runner, self.host, self.port, reuse_address=True)
                await site.start()
                await _first(stop, self.refuse)
                await site.stop()
                if self.refuse.is_set():
                    self.refuse.clear()
                    seconds, self.faults = self.faults.refuse_seconds, replace(self.faults, refuse_seconds=0.0)
                    await asyncio.wait({asyncio.create_task(stop.wait())}, timeout=seconds)
        finally:
            await runner.cleanup()


async def _first(*events: asyncio.Event) -> None:
    waiting = {asyncio.create_task(event.wait()) for event in events}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
