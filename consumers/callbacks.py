"""The handler of callbacks. One client's slow or dead receiver does not delay other clients' callbacks."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from consumers.shares import Shares, ShareTimeout
from infra.webhooks.guard import Refused, split
from jobs.breaker import Breaker, BreakerPolicy, State
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome, Verdict
from service.settings import CALLBACK_WAIT_SECONDS

MAX_RECEIVERS = 10_000  # receivers whose breaker is kept

# Neither call was sent, so neither is charged. The backoff of deferrals spaces the retries.
HOST_BUSY = Outcome(Verdict.DEFERRED, "host_busy", surely_not_sent=True)
BREAKER_OPEN = Outcome(Verdict.DEFERRED, "host_left_alone", surely_not_sent=True)


class Sender(Protocol):
    """The part of `infra.webhooks` that the handler uses."""

    timeout_seconds: float

    async def send(self, url: str, id_: str, body: str) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Receiver:
    """One client's receivers at one host. Each client has its own breaker for a host."""

    client_id: str
    host: str


@dataclass(slots=True)
class _ReceiverState:
    """A receiver's breaker. `in_flight`: its calls; `callers`: its calls and those that wait for a share."""

    breaker: Breaker
    in_flight: int = 0
    callers: int = 0


class Hosts:
    """Bounds the slots of each receiver, client and host, and keeps a breaker for each receiver.

    A receiver gets half of the slots; a client, and a host, three quarters.
    """

    def __init__(self, slots: int, policy: BreakerPolicy, *, monotonic: Callable[[], float] = time.monotonic):
        self._per_receiver, self._per_party = max(1, slots // 2), max(1, slots * 3 // 4)
        self._policy = policy
        self._monotonic = monotonic
        self._shares = Shares()
        self._states: dict[Receiver, _ReceiverState] = {}

    async def call(self, receiver: Receiver, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Call a receiver. The call is deferred if no share is free in time, or the breaker is open."""
        state = self._states.setdefault(receiver, _ReceiverState(Breaker(self._policy)))
        client, host = ("client", receiver.client_id), ("host", receiver.host)
        limits = {receiver: self._per_receiver, client: self._per_party, host: self._per_party}
        state.callers += 1
        try:
            async with self._shares.take(limits, seconds=CALLBACK_WAIT_SECONDS):
                return await self._call(state, send)
        except ShareTimeout:
            return HOST_BUSY
        finally:
            state.callers -= 1
            self._evict(receiver, state)

    async def _call(self, receiver: _ReceiverState, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        now = self._monotonic()
        state = receiver.breaker.state(now)
        if state is State.OPEN or (state is State.HALF_OPEN and receiver.in_flight):
            return replace(BREAKER_OPEN, retry_after_seconds=max(0.0, (receiver.breaker.until or now) - now))
        receiver.in_flight += 1
        try:
            outcome = await send()
        finally:
            receiver.in_flight -= 1
        if outcome.verdict is not Verdict.DEFERRED:  # the Retry-After of one URL does not bind the whole host
            receiver.breaker = receiver.breaker.after(outcome, self._monotonic())
        return outcome

    def _evict(self, receiver: Receiver, state: _ReceiverState) -> None:
        """Remove a healthy receiver; keep at most `MAX_RECEIVERS` others."""
        if not state.callers and (state.breaker == Breaker(self._policy) or len(self._states) > MAX_RECEIVERS):
            self._states.pop(receiver, None)


@dataclass(frozen=True)
class SendCallback:
    """Posts one claimed callback to its URL. The event id is the job id."""

    sender: Sender
    hosts: Hosts

    @property
    def timeout_seconds(self) -> float:
        return CALLBACK_WAIT_SECONDS + self.sender.timeout_seconds

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome:
        assert job.destination is not None and job.body is not None  # every callback has both
        url, body = job.destination, job.body
        receiver = Receiver(job.client_id, host_of(url))
        return await self.hosts.call(receiver, lambda: self.sender.send(url, str(job.id), body))


def host_of(url: str) -> str:
    """Host and port of a URL, normalized: lower case, with the scheme's default port."""
    try:
        host, port = split(url)
    except Refused:  # the sender refuses it, too
        return url
    return f"{host}:{port}"
