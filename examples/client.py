"""A small typed client: submit under an idempotency key, wait by events or by long-polls. It needs aiohttp, and no more.

python -m examples.client http://127.0.0.1:9006 +15550001 "Hello"
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import uuid4

import aiohttp

ENDS = frozenset({"sent", "completed", "delivered", "failed", "unknown", "canceled", "expired", "discarded"})
AGAIN_SECONDS = 1.0
WAIT_SECONDS = 50


class Refused(Exception):
    """Posthaste refuses the request; `problem` is its RFC 9457 body."""

    def __init__(self, problem: dict[str, Any]):
        super().__init__(problem.get("detail"))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class State:
    """A job's status at one version; later states have greater versions."""

    id: str
    version: int
    status: str

    @property
    def ended(self) -> bool:
        return self.status in ENDS


class Posthaste:
    """One installation, at `base`. Use it as an async context manager."""

    def __init__(self, base: str):
        self._session = aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=None, sock_connect=5))

    async def __aenter__(self) -> "Posthaste":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, destination: str, body: str, key: str | None = None, callback_url: str | None = None) -> str:
        """The id of the accepted message. A lost answer or a 503 is asked again under the same key: one message comes of it.

        Its end is told to `callback_url`, too: see `examples.receive_callbacks`.

        Raises:
            Refused: the request itself is wrong.
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
                    raise Refused(answer)
            except (aiohttp.ClientConnectionError, TimeoutError):
                pass  # whether it was accepted is unknown: the key makes it safe to ask again
            await asyncio.sleep(AGAIN_SECONDS)

    async def events(self, id_: str) -> AsyncIterator[State]:
        """Each newer state that is told, until the final one; connects again where the connection is lost."""
        last = State(id_, 0, "")
        while not last.ended:
            headers = {"Last-Event-ID": str(last.version)} if last.version else {}
            try:
                async with self._session.get(f"/messages/{id_}/events", headers=headers) as response:
                    if response.status == 204:
                        return
                    if 400 <= response.status < 500:
                        raise Refused(await response.json())
                    async for line in response.content:
                        if line.startswith(b"data: "):
                            last = State(**json.loads(line[6:]))
                            yield last
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                pass  # it is told from Last-Event-ID on
            if not last.ended:
                await asyncio.sleep(AGAIN_SECONDS)

    async def wait(self, id_: str) -> State:
        """The final state, by long-polls: for where a proxy does not let event streams through.

        Raises:
            Refused: there is no such message.
        """
        while True:
            try:
                async with self._session.get(f"/messages/{id_}", headers={"Prefer": f"wait={WAIT_SECONDS}"}) as response:
                    answer: dict[str, Any] = await response.json()
                if 400 <= response.status < 500:
                    raise Refused(answer)
                if response.status == 200 and (state := State(id_, answer["version"], answer["status"])).ended:
                    return state
            except (aiohttp.ClientConnectionError, TimeoutError):
                pass  # ask again
            await asyncio.sleep(0 if response.status == 200 else AGAIN_SECONDS)


async def _main(base: str, destination: str, body: str) -> int:
    async with Posthaste(base) as posthaste:
        id_ = await posthaste.send(destination, body)
        print(f"accepted: {id_}")
        async for state in posthaste.events(id_):
            print(f"  version {state.version}: {state.status}")
        return 0 if (await posthaste.wait(id_)).status == "sent" else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(*sys.argv[1:4])))
