"""The load: clients submit jobs, retry under the same idempotency key, and poll statuses."""

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

RETRY_SECONDS = 0.2
UNKNOWN_OUTCOME = (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError)
CALLBACK_SHARE = 0.5  # of the messages; every report has a callback
POLLED_SHARE = 0.4  # of the messages
POLL_PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)  # seconds


@dataclass
class Load:
    """`clients` clients; each pauses about `pause_seconds` between two jobs."""

    installation: Installation
    evidence: Evidence
    rng: random.Random
    clients: int = 8
    pause_seconds: float = 0.15
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[str] = field(default_factory=list)  # ids that were accepted
    _polls: set["asyncio.Task[None]"] = field(default_factory=set)

    async def run(self) -> None:
        """Submit until `stopping`; return when every client has an answer to its last request."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(self._client())
        for task in self._polls:
            task.cancel()
        await asyncio.gather(*self._polls, return_exceptions=True)

    async def _client(self) -> None:
        while not self.stopping.is_set():
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * self.pause_seconds)
            path, body = self._next_request()
            id_ = await self.submit(path, body)
            if id_ is None or path != "/messages":
                continue
            self.messages.append(id_)
            if self.rng.random() < POLLED_SHARE:
                task = asyncio.create_task(self._poll(id_))
                self._polls.add(task)
                task.add_done_callback(self._polls.discard)

    def _next_request(self) -> tuple[str, dict[str, Any]]:
        roll = self.rng.random()
        url = self.installation.receiver.url
        if roll < 0.01:
            return "/api/2.0/report/posts", {"callback_url": url}
        body: dict[str, Any] = {"destination": "+rejected" if roll < 0.06 else "+1", "body": "hello"}
        if roll > 0.8:
            body["delivery"] = "at_most_once"
        if self.rng.random() < 0.1:
            body["priority"] = "high"
        if self.rng.random() < CALLBACK_SHARE:
            body["callback_url"] = url
        return "/messages", body

    async def submit(self, path: str, body: dict[str, Any]) -> str | None:
        """Retry at random APIs until a 202; None on any answer but 202 and 503."""
        key = uuid4().hex
        while True:
            port = self.rng.choice(self.installation.ports)
            try:
                async with self.installation.session.post(
                    f"http://127.0.0.1:{port}{path}", json=body, headers={"Idempotency-Key": key}
                ) as response:
                    answer = await response.json()
            except UNKNOWN_OUTCOME:
                pass  # the outcome is unknown: the key makes a retry safe
            else:
                if response.status == 202:
                    self.evidence.ids_by_key.setdefault(key, set()).add(answer["id"])
                    return str(answer["id"])
                if response.status != 503:
                    self.evidence.unexpected_answers.append(f"key {key}: {response.status} {answer}")
                    return None
            await asyncio.sleep(RETRY_SECONDS)

    async def _poll(self, id_: str) -> None:
        for pause in POLL_PAUSES:
            await asyncio.sleep(pause)
            if await self.read_status(id_) in ENDS:
                return

    async def read_status(self, id_: str) -> str | None:
        """Read the status at a random API; None if it is unavailable."""
        requested_at = time.time()
        port = self.rng.choice(self.installation.ports)
        try:
            async with self.installation.session.get(f"http://127.0.0.1:{port}/message/{id_}/status") as response:
                answer = await response.json()
        except UNKNOWN_OUTCOME:
            return None
        if response.status == 200:
            self.evidence.observations.append(Observation(id_, requested_at, time.time(), answer["status"]))
            return str(answer["status"])
        if response.status != 503:
            self.evidence.unexpected_answers.append(f"status of {id_}: {response.status} {answer}")
        return None

    async def requeue(self) -> None:
        """Two operators requeue the failed messages at once."""
        body = {"filter": {"status": "failed"}}
        await asyncio.gather(*(self._requeue_once(port, body) for port in self.installation.ports))

    async def _requeue_once(self, port: int, body: dict[str, Any]) -> None:
        try:
            async with self.installation.session.post(f"http://127.0.0.1:{port}/dead-letters/requeue", json=body) as response:
                await response.read()
        except UNKNOWN_OUTCOME:
            return  # versions fence each requeue: a lost one is harmless
