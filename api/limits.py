"""How much a caller may ask for: requests per key and per address, and a backlog that grows no further."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from limits import RateLimitItem

from api.problems import Problem

log = structlog.get_logger()

COUNT_SECONDS = 1.0
RECENT_SECONDS = 10.0  # clients that have submitted nothing for so long are not counted
DOWN_EVERY_SECONDS = 60.0


class Exceeded(Protocol):
    """Too many; the next one in so many seconds."""

    @property
    def seconds(self) -> int: ...


class Rates(Protocol):
    """What is needed of Redis."""

    async def hit(self, limit: RateLimitItem, name: str) -> Exceeded | None: ...
    async def exceeded(self, limit: RateLimitItem, name: str) -> Exceeded | None: ...


class RateLimits:
    """`per_key`: every request; `per_address`: those that show no usable key. While Redis is away nobody is held up."""

    def __init__(
        self, rates: Rates, per_key: RateLimitItem, per_address: RateLimitItem, *, passing: tuple[type[Exception], ...]
    ):
        self._rates = rates
        self._per_key = per_key
        self._per_address = per_address
        self._passing = passing
        self._said_at = float("-inf")

    async def key(self, prefix: str) -> None:
        """Count a request of a key.

        Raises:
            Problem: 429, there were too many.
        """
        await self._count(self._rates.hit, self._per_key, prefix, "key")

    async def stranger(self, address: str, *, count: bool) -> None:
        """Count a request without a usable key, or only look whether there were too many. Raises as `key`."""
        await self._count(self._rates.hit if count else self._rates.exceeded, self._per_address, address, "address")

    async def _count(
        self, ask: Callable[[RateLimitItem, str], Awaitable[Exceeded | None]], limit: RateLimitItem, name: str, what: str
    ) -> None:
        try:
            exceeded = await ask(limit, name)
        except self._passing as error:
            if time.monotonic() - self._said_at > DOWN_EVERY_SECONDS:
                self._said_at = time.monotonic()
                log.warning("rates.down", reason=str(error), effect="requests are not counted")
            return
        if exceeded is not None:
            # draft-ietf-httpapi-ratelimit-headers
            policy = f'"{what}";q={limit.amount};w={limit.get_expiry()}'
            fields = {"RateLimit-Policy": policy, "RateLimit": f'"{what}";r=0;t={exceeded.seconds}'}
            detail = f"More than {limit.amount} requests in {limit.get_expiry()} s by this {what}."
            raise Problem(429, "rate_limited", detail, headers={"Retry-After": str(exceeded.seconds), **fields})


@dataclass(slots=True)
class _Backlog:
    """What is known of a client's waiting jobs."""

    count: int = 0
    full: bool = False
    submitted_at: float = 0.0


class BacklogLimit:
    """A client whose waiting jobs come to `high` is refused more, until they are down to `low`.

    Counted every second, and by what this process has accepted since; jobs that are not due yet, and those of a paused
    provider, do not count. While Postgres does not answer, what was known last holds.
    """

    def __init__(
        self,
        waiting: Callable[[str, int, float], Awaitable[int]],
        *,
        high: int,
        low: int,
        passing: tuple[type[Exception], ...],
    ):
        self._waiting = waiting
        self._high = high
        self._low = low
        self._passing = passing
        self._known: dict[str, _Backlog] = {}

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            started = time.monotonic()
            await self.look()
            # Counting takes its time where there is much to count: it may have a twentieth of Postgres' time.
            await asyncio.sleep(max(COUNT_SECONDS, 20 * (time.monotonic() - started)))

    async def look(self) -> None:
        """Count the waiting jobs of every client that has submitted some lately."""
        recently = time.monotonic() - RECENT_SECONDS
        self._known = {name: each for name, each in self._known.items() if each.full or each.submitted_at > recently}
        for client_id, backlog in list(self._known.items()):
            try:
                backlog.count = await self._waiting(client_id, self._high, COUNT_SECONDS)
            except self._passing as error:
                log.debug("backlog.not_counted", reason=str(error))
                return
            self._toggle(client_id, backlog)

    def admit(self, client_id: str) -> None:
        """Let a client submit one more job.

        Raises:
            Problem: 503, too many of its jobs are waiting.
        """
        backlog = self._known.setdefault(client_id, _Backlog())
        backlog.submitted_at = time.monotonic()
        if backlog.full:
            detail = (
                f"{backlog.count} of your jobs are waiting; at {self._low} there is room again. This request accepted nothing."
            )
            raise Problem(503, "backlog_full", detail, headers={"Retry-After": "5"})
        backlog.count += 1
        self._toggle(client_id, backlog)

    def _toggle(self, client_id: str, backlog: _Backlog) -> None:
        if not backlog.full and backlog.count >= self._high:
            backlog.full = True
            log.warning("backlog.full", client=client_id, waiting=backlog.count, effect="its submissions are answered with 503")
        elif backlog.full and backlog.count <= self._low:
            backlog.full = False
            log.info("backlog.open", client=client_id, waiting=backlog.count)
