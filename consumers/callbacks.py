"""The handler of callbacks: posts to receivers. One client's slow or dead receiver does not delay other clients' callbacks."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from consumers.shares import NoShare, Shares
from infra.webhooks.guard import Refused, split
from jobs.breaker import Breaker, BreakerPolicy, State
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome, Verdict
from service.settings import CALLBACK_PATIENCE

KNOWN_HOSTS = 10_000

# Neither was sent, so neither is charged; the backoff of deferrals spaces them.
HOST_BUSY = Outcome(Verdict.DEFERRED, "host_busy", surely_not_sent=True)
LEFT_ALONE = Outcome(Verdict.DEFERRED, "host_left_alone", surely_not_sent=True)


class Sender(Protocol):
    """What the handler needs of `infra.webhooks`."""

    timeout_seconds: float

    async def send(self, url: str, id_: str, body: str) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Receiver:
    """One client's receivers at one host. Another client's receivers at that host have a breaker of their own."""

    client_id: str
    host: str


@dataclass(slots=True)
class _Known:
    """The breaker of a receiver, and its calls: those under way, and with those that wait."""

    breaker: Breaker
    calling: int = 0
    callers: int = 0


class Hosts:
    """Bounds the slots that one receiver, client or host may hold, and leaves receivers alone that do not answer.

    A client at one host gets half of the slots; a client, and a host, three quarters in all.
    """

    def __init__(self, slots: int, policy: BreakerPolicy, *, monotonic: Callable[[], float] = time.monotonic):
        self._half, self._most = max(1, slots // 2), max(1, slots * 3 // 4)
        self._policy = policy
        self._monotonic = monotonic
        self._shares = Shares()
        self._known: dict[Receiver, _Known] = {}

    async def call(self, receiver: Receiver, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Call a receiver if its shares are free in time and its breaker lets it; else the call is deferred."""
        known = self._known.setdefault(receiver, _Known(Breaker(self._policy)))
        limits = {receiver: self._half, ("client", receiver.client_id): self._most, ("host", receiver.host): self._most}
        known.callers += 1
        try:
            async with self._shares.take(limits, seconds=CALLBACK_PATIENCE):
                return await self._call(known, send)
        except NoShare:
            return HOST_BUSY
        finally:
            known.callers -= 1
            self._forget(receiver, known)

    async def _call(self, known: _Known, send: Callable[[], Awaitable[Outcome]]) -> Outcome:
        now = self._monotonic()
        state = known.breaker.state(now)
        if state is State.OPEN or (state is State.HALF_OPEN and known.calling):
            return replace(LEFT_ALONE, retry_after_seconds=max(0.0, (known.breaker.until or now) - now))
        known.calling += 1
        try:
            outcome = await send()
        finally:
            known.calling -= 1
        if outcome.verdict is not Verdict.DEFERRED:  # one receiver's plea for patience is not its whole host's
            known.breaker = known.breaker.after(outcome, self._monotonic())
        return outcome

    def _forget(self, receiver: Receiver, known: _Known) -> None:
        """Healthy receivers are forgotten; of the others at most `KNOWN_HOSTS` are kept."""
        if not known.callers and (known.breaker == Breaker(self._policy) or len(self._known) > KNOWN_HOSTS):
            self._known.pop(receiver, None)


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
        receiver = Receiver(job.client_id, host_of(url))
        return await self.hosts.call(receiver, lambda: self.sender.send(url, str(job.id), body))


def host_of(url: str) -> str:
    """Host and port of a URL in one spelling: lower case, the scheme's port spelled out."""
    try:
        host, port = split(url)
    except Refused:  # the sender refuses it, too
        return url
    return f"{host}:{port}"
