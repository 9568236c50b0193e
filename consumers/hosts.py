"""The hosts that receive callbacks. One client's slow or dead receiver does not delay other clients' callbacks."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from infra.webhooks.guard import Refused, split
from jobs.breaker import Breaker, BreakerPolicy, State
from jobs.outcome import Outcome, Verdict
from service.settings import CALLBACK_WAIT_SECONDS

MAX_RECEIVERS = 10_000  # receivers whose breaker is kept

# Neither call was sent, so neither is charged. The backoff of deferrals spaces the retries.
HOST_BUSY = Outcome(Verdict.DEFERRED, "host_busy", surely_not_sent=True)
BREAKER_OPEN = Outcome(Verdict.DEFERRED, "host_left_alone", surely_not_sent=True)


class Shares:
    """A call acquires a share of all its keys at once. While it waits for one share, it holds no other."""

    def __init__(self) -> None:
        self.in_use: Counter[Hashable] = Counter()
        self._waiting: dict[asyncio.Future[None], Mapping[Hashable, int]] = {}

    @asynccontextmanager
    async def take(self, limits: Mapping[Hashable, int], *, seconds: float) -> AsyncIterator[bool]:
        """Hold a share of each key. `limits`: the calls at once by key. The first waiting call that fits is granted.

        Yields False if the shares were not free within `seconds`.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = limits
        self._grant()
        try:
            if not turn.done():
                await asyncio.wait({turn}, timeout=seconds)
            yield turn.done()
        finally:
            if self._waiting.pop(turn, None) is None:  # it was granted
                self.in_use -= Counter(limits.keys())  # removes the keys without a call
                self._grant()

    def _grant(self) -> None:
        for turn, limits in list(self._waiting.items()):
            if all(self.in_use[key] < limit for key, limit in limits.items()):
                del self._waiting[turn]
                self.in_use.update(limits.keys())
                turn.set_result(None)


@dataclass(frozen=True, slots=True)
class Receiver:
    """One client's receivers at one host. Each client has its own breaker for a host."""

    client_id: str
    host: str


class Hosts:
    """Bounds the slots of each receiver, client and host, and keeps a breaker for each receiver.

    A receiver gets half of the slots; a client, and a host, three quarters.
    """

    def __init__(self, slots: int, policy: BreakerPolicy, *, monotonic: Callable[[], float] = time.monotonic):
        self._per_receiver, self._per_party = max(1, slots // 2), max(1, slots * 3 // 4)
        self._healthy = Breaker(policy)
        self._monotonic = monotonic
        self._shares = Shares()
        self._breakers: dict[Receiver, Breaker] = {}  # of receivers that have failed

    async def call(self, receiver: Receiver, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Call a receiver. The call is deferred if no share is free in time, or the breaker is open."""
        client, host = ("client", receiver.client_id), ("host", receiver.host)
        limits = {receiver: self._per_receiver, client: self._per_party, host: self._per_party}
        async with self._shares.take(limits, seconds=CALLBACK_WAIT_SECONDS) as has_shares:
            return await self._call(receiver, send) if has_shares else HOST_BUSY

    async def _call(self, receiver: Receiver, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        breaker, now = self._breakers.get(receiver, self._healthy), self._monotonic()
        state = breaker.state(now)
        if state is State.OPEN or (state is State.HALF_OPEN and self._shares.in_use[receiver] > 1):  # another call probes
            return replace(BREAKER_OPEN, retry_after_seconds=max(0.0, (breaker.until or now) - now))
        outcome = await send()
        if outcome.verdict is not Verdict.DEFERRED:  # the Retry-After of one URL does not bind the whole host
            self._count(receiver, outcome)
        return outcome

    def _count(self, receiver: Receiver, outcome: Outcome) -> None:
        """Count the outcome in the receiver's breaker. Healthy receivers, and those beyond the limit, are forgotten."""
        breaker = self._breakers.pop(receiver, self._healthy).after(outcome, self._monotonic())
        if breaker != self._healthy and len(self._breakers) < MAX_RECEIVERS:
            self._breakers[receiver] = breaker


def host_of(url: str) -> str:
    """Host and port of a URL, normalized: lower case, with the scheme's default port."""
    try:
        host, port = split(url)
    except Refused:  # the sender refuses it, too
        return url
    return f"{host}:{port}"
