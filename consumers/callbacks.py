"""The handler of callbacks: tells a receiver that a job has ended. One bad receiver does not stand in the others' way."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from infra.settings import CALLBACK_PATIENCE
from jobs.breaker import Breaker, BreakerPolicy, State
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome, Verdict

LONGEST_PAUSE = 300.0
KNOWN_HOSTS = 10_000

# Charged like any other failed attempt: the schedule brings it again when the host has had time to recover.
LEFT_ALONE = Outcome(Verdict.RETRYABLE, "host_left_alone", surely_not_sent=True)


class Sender(Protocol):
    """What the handler needs of `infra.webhooks`."""

    timeout_seconds: float

    async def send(self, url: str, id_: str, body: str) -> Outcome: ...


@dataclass(slots=True)
class _Host:
    """One receiver's host: its share of the slots, what is known of it, and who is calling it or waiting to."""

    share: asyncio.Semaphore
    breaker: Breaker
    callers: int = 0
    calling: int = 0


class Hosts:
    """Bounds what one host can take from the others: `share` calls at once, and none while it does not answer."""

    def __init__(self, share: int, policy: BreakerPolicy, *, monotonic: Callable[[], float] = time.monotonic):
        self._share = share
        self._policy = policy
        self._monotonic = monotonic
        self._hosts: dict[str, _Host] = {}

    async def call(self, name: str, tries: int, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Call the host, if it is its turn; `tries` of the job so far say for how long a busy host is left to the others."""
        host = self._hosts.setdefault(name, _Host(asyncio.Semaphore(self._share), Breaker(self._policy)))
        host.callers += 1
        try:
            async with asyncio.timeout(CALLBACK_PATIENCE):
                await host.share.acquire()
        except TimeoutError:
            host.callers -= 1
            pause = min(LONGEST_PAUSE, 2.0 ** min(tries + 1, 30))
            return Outcome(Verdict.DEFERRED, "host_busy", surely_not_sent=True, retry_after_seconds=pause)
        try:
            return await self._call(host, send)
        finally:
            host.share.release()
            host.callers -= 1
            self._forget(name, host)

    async def _call(self, host: _Host, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        state = host.breaker.state(self._monotonic())
        if state is State.OPEN or (state is State.HALF_OPEN and host.calling):
            return LEFT_ALONE
        host.calling += 1
        try:
            outcome = await send()
        finally:
            host.calling -= 1
        if outcome.verdict is not Verdict.DEFERRED:  # one receiver's plea for patience is not its whole host's
            host.breaker = host.breaker.after(outcome, self._monotonic())
        return outcome

    def _forget(self, name: str, host: _Host) -> None:
        """What is well need not be known; and of the others only so many."""
        if not host.callers and (host.breaker == Breaker(self._policy) or len(self._hosts) > KNOWN_HOSTS):
            self._hosts.pop(name, None)


@dataclass(frozen=True)
class SendCallback:
    """Posts one claimed callback to its URL, under its id."""

    sender: Sender
    hosts: Hosts

    @property
    def timeout_seconds(self) -> float:
        return CALLBACK_PATIENCE + self.sender.timeout_seconds

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome:
        assert job.destination is not None and job.body is not None  # every callback has both
        url, body = job.destination, job.body
        return await self.hosts.call(urlsplit(url).netloc, job.tries, lambda: self.sender.send(url, str(job.id), body))
