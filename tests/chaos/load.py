"""The load: clients that submit, ask again under the same key until they know, and look at what becomes of it."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

from jobs.lifecycle import ENDS
from tests.chaos.evidence import Evidence, Observation
from tests.chaos.installation import Installation

AGAIN_SECONDS = 0.2
NOT_KNOWN = (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError)
CALLED = 0.5  # the share of messages whose end is told by a callback; reports all are
WATCHED = 0.4  # the share of jobs whose status a client looks at
LOOKS = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)  # seconds between two looks


@dataclass
class Load:
    """`clients` of them, each pausing about `pause_seconds` between two jobs."""

    installation: Installation
    evidence: Evidence
    draw: random.Random
    clients: int = 8
    pause_seconds: float = 0.15
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[str] = field(default_factory=list)  # ids that were accepted
    _watching: set["asyncio.Task[None]"] = field(default_factory=set)

    async def run(self) -> None:
        """Submit until `stopping`; returns once every client knows what became of its last request."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(self._client())
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _client(self) -> None:
        while not self.stopping.is_set():
            await asyncio.sleep(self.draw.uniform(0.5, 1.5) * self.pause_seconds)
            path, body = self._wanted()
            id_ = await self.submit(path, body)
            if id_ is None or path != "/messages":
                continue
            self.messages.append(id_)
            if self.draw.random() < WATCHED:
                task = asyncio.create_task(self._watch(id_))
                self._watching.add(task)
                task.add_done_callback(self._watching.discard)

    def _wanted(self) -> tuple[str, dict[str, Any]]:
        drawn = self.draw.random()
        url = self.installation.listener.url
        if drawn < 0.01:
            return "/api/2.0/report/posts", {"callback_url": url}
        body: dict[str, Any] = {"destination": "+rejected" if drawn < 0.06 else "+1", "body": "hello"}
        if drawn > 0.8:
            body["delivery"] = "at_most_once"
        if self.draw.random() < 0.1:
            body["priority"] = "high"
        if self.draw.random() < CALLED:
            body["callback_url"] = url
        return "/messages", body

    async def submit(self, path: str, body: dict[str, Any]) -> str | None:
        """Ask, at any API, until one says 202; None where one refuses."""
        key = uuid4().hex
        while True:
            port = self.draw.choice(self.installation.ports)
            try:
                async with self.installation.session.post(
                    f"http://127.0.0.1:{port}{path}", json=body, headers={"Idempotency-Key": key}
                ) as response:
                    answer = await response.json()
            except NOT_KNOWN:
                pass  # the outcome is unknown: the key makes it safe to ask again
            else:
                if response.status == 202:
                    self.evidence.accepted.setdefault(key, set()).add(answer["id"])
                    return str(answer["id"])
                if response.status != 503:
                    self.evidence.refused.append(f"key {key}: {response.status} {answer}")
                    return None
            await asyncio.sleep(AGAIN_SECONDS)

    async def _watch(self, id_: str) -> None:
        for pause in LOOKS:
            await asyncio.sleep(pause)
            if await self.look(id_) in ENDS:
                return

    async def look(self, id_: str) -> str | None:
        """The status that one of the APIs tells now; None where it cannot."""
        asked = time.time()
        port = self.draw.choice(self.installation.ports)
        try:
            async with self.installation.session.get(f"http://127.0.0.1:{port}/message/{id_}/status") as response:
                answer = await response.json()
        except NOT_KNOWN:
            return None
        if response.status == 200:
            self.evidence.observations.append(Observation(id_, asked, time.time(), answer["status"]))
            return str(answer["status"])
        if response.status != 503:
            self.evidence.refused.append(f"status of {id_}: {response.status} {answer}")
        return None

    async def requeue(self) -> None:
        """Two operators click at once: requeue what the provider has rejected."""
        body = {"filter": {"status": "failed"}}
        await asyncio.gather(*(self._click(port, body) for port in self.installation.ports))

    async def _click(self, port: int, body: dict[str, Any]) -> None:
        try:
            async with self.installation.session.post(f"http://127.0.0.1:{port}/dead-letters/requeue", json=body) as response:
                await response.read()
        except NOT_KNOWN:
            return  # each click is fenced by versions: whether it was heard does not matter
