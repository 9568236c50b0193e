"""A small typed client: submit under an idempotency key, wait by events or by long-polls. Its one dependency is aiohttp.

python -m examples.client http://127.0.0.1:9006 +15550001 "Hello"
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import uuid4

import aiohttp

ENDS = frozenset({"sent", "completed", "delivered", "failed", "unknown", "canceled", "expired", "discarded"})
RETRY_SECONDS = 1.0
WAIT_SECONDS = 50


class RequestError(Exception):
    """Posthaste rejected the request. `problem` is the RFC 9457 body of its answer."""

    def __init__(self, problem: dict[str, Any]):
        super().__init__(problem.get("detail"))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class State:
    """A job's status at one version; later states have higher versions."""

    id: str
    version: int
    status: str

    @property
    def ended(self) -> bool:
        return self.status in ENDS


class Posthaste:
    """A client of one installation, at `base`; an async context manager. It sends POSTHASTE_API_KEY if that is set."""

    def __init__(self, base: str):
        key = os.environ.get("POSTHASTE_API_KEY")
        self._session = aiohttp.ClientSession(
            base,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            headers={"Authorization": f"Bearer {key}"} if key else None,
        )

    async def __aenter__(self) -> "Posthaste":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, destination: str, body: str, key: str | None = None, callback_url: str | None = None) -> str:
        """Submit one message and return its id. A lost answer or a 503 is retried under the same key, so it is accepted once.

        `callback_url` is notified of the final status: see `examples.receive_callbacks`.

        Raises:
            RequestError: the request is invalid.
        """
        headers = {"Idempotency-Key": key or uuid4().hex}
        fields = {"destination": destination, "body": body} | ({"callback_url": callback_url} if callback_url else {})
        while True:
            try:
                async with self._session.post("/messages", json=fields, headers=headers) as response:
                    answer: dict[str, Any] = await response.json()
                if response.status == 202:
                    return str(answer["id"])
                if response.status < 500:
                    raise RequestError(answer)
            except (aiohttp.ClientConnectionError, TimeoutError):
                pass  # the message may have been accepted; the key makes a retry safe
            await asyncio.sleep(RETRY_SECONDS)

    async def events(self, id_: str) -> AsyncIterator[State]:
        """Yield each newer state until the final one. Reconnects after a lost connection."""
        last = State(id_, 0, "")
        while not last.ended:
            headers = {"Last-Event-ID": str(last.version)} if last.version else {}
            try:
                async with self._session.get(f"/messages/{id_}/events", headers=headers) as response:
                    if response.status == 204:
                        return
                    if 400 <= response.status < 500:
                        raise RequestError(await response.json())
                    async for line in response.content:
                        if line.startswith(b"data: "):
                            last = State(**json.loads(line[6:]))
                            yield last
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                pass  # the next connection continues after Last-Event-ID
            if not last.ended:
                await asyncio.sleep(RETRY_SECONDS)

    async def wait(self, id_: str) -> State:
        """Return the final state, by long-polls: for a proxy that blocks event streams.

        Raises:
            RequestError: the message does not exist.
        """
        while True:
            try:
                async with self._session.get(f"/messages/{id_}", headers={"Prefer": f"wait={WAIT_SECONDS}"}) as response:
                    answer: dict[str, Any] = await response.json()
                if 400 <= response.status < 500:
                    raise RequestError(answer)
                if response.status == 200 and (state := State(id_, answer["version"], answer["status"])).ended:
                    return state
            except (aiohttp.ClientConnectionError, TimeoutError):
                pass  # retry
            await asyncio.sleep(0 if response.status == 200 else RETRY_SECONDS)


async def _main(base: str, destination: str, body: str) -> int:
    async with Posthaste(base) as posthaste:
        id_ = await posthaste.send(destination, body)
        print(f"accepted: {id_}")
        async for state in posthaste.events(id_):
            print(f"  version {state.version}: {state.status}")
        return 0 if (await posthaste.wait(id_)).status == "sent" else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.client", description="Send one message and follow it to its end.")
    parser.add_argument("base", help="the API's URL, for example http://127.0.0.1:9006")
    parser.add_argument("destination")
    parser.add_argument("body")
    options = parser.parse_args()
    sys.exit(asyncio.run(_main(options.base, options.destination, options.body)))
