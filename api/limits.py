"""How much a caller may ask for: requests per key, and per address without a usable key."""

import time
from typing import Protocol

import structlog
from limits import RateLimitItem

from api.problems import Problem
from infra.errors import Transient

log = structlog.get_logger()

DOWN_EVERY_SECONDS = 60.0


class Exceeded(Protocol):
    """Too many; the next one in so many seconds."""

    @property
    def seconds(self) -> int: ...


class Rates(Protocol):
    """What is needed of Redis."""

    async def hit(self, limit: RateLimitItem, name: str) -> Exceeded | None: ...


class RateLimits:
    """`per_key`: every request; `per_address`: those that show no usable key. While Redis is away nobody is held up."""

    def __init__(self, rates: Rates, per_key: RateLimitItem, per_address: RateLimitItem):
        self._rates = rates
        self._per_key = per_key
        self._per_address = per_address
        self._said_at = float("-inf")

    async def key(self, prefix: str) -> None:
        """Count a request of a key.

        Raises:
            Problem: 429, there were too many.
        """
        await self._count(self._per_key, prefix, "key")

    async def stranger(self, address: str) -> None:
        """Count a request without a usable key. Raises as `key`."""
        await self._count(self._per_address, address, "address")

    async def _count(self, limit: RateLimitItem, name: str, what: str) -> None:
        try:
            exceeded = await self._rates.hit(limit, name)
        except Transient as error:
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
