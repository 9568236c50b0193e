"""Rate limits: requests per key, and requests per address without a usable key."""

import time
from typing import Protocol

import structlog
from limits import RateLimitItem

from api.problems import Problem
from infra.errors import Transient

log = structlog.get_logger()

LOG_EVERY_SECONDS = 60.0


class Exceeded(Protocol):
    """The limit is exceeded for so many seconds."""

    @property
    def seconds(self) -> int: ...


class Rates(Protocol):
    """The counters in Redis."""

    async def hit(self, limit: RateLimitItem, name: str) -> Exceeded | None: ...


class RateLimits:
    """`per_key` limits all requests of a key, `per_address` those without a usable key. Without Redis nothing is limited."""

    def __init__(self, rates: Rates, per_key: RateLimitItem, per_address: RateLimitItem):
        self._rates = rates
        self._per_key = per_key
        self._per_address = per_address
        self._logged_at = float("-inf")

    async def count_key(self, prefix: str) -> None:
        """Count a request of a key.

        Raises:
            Problem: 429, the limit is exceeded.
        """
        await self._count(self._per_key, prefix, "key")

    async def count_address(self, address: str) -> None:
        """Count a request without a usable key. Raises as `count_key`."""
        await self._count(self._per_address, address, "address")

    async def _count(self, limit: RateLimitItem, name: str, unit: str) -> None:
        try:
            exceeded = await self._rates.hit(limit, name)
        except Transient as error:
            if time.monotonic() - self._logged_at > LOG_EVERY_SECONDS:
                self._logged_at = time.monotonic()
                log.warning("rates.down", reason=str(error), effect="requests are not limited")
            return
        if exceeded is not None:
            # draft-ietf-httpapi-ratelimit-headers
            policy = f'"{unit}";q={limit.amount};w={limit.get_expiry()}'
            fields = {"RateLimit-Policy": policy, "RateLimit": f'"{unit}";r=0;t={exceeded.seconds}'}
            detail = f"More than {limit.amount} requests in {limit.get_expiry()} s by this {unit}."
            raise Problem(429, "rate_limited", detail, headers={"Retry-After": str(exceeded.seconds), **fields})
