"""Request rates, counted in Redis for all processes by the library `limits`."""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from infra.redis import connection


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit is exceeded. The next call is admitted after `seconds`."""

    seconds: int


class Rates:
    """Counts calls within a sliding window, with two counters a name. Each Redis call has a timeout of 50 ms."""

    def __init__(self, url: str, *, namespace: str):
        self._pool = connection.open_pool(url, 32)
        # The library requires a URL of its own form even with an explicit pool.
        redis = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{namespace}:rates",
            connection_pool=self._pool,  # type: ignore[arg-type]
        )
        self._window = SlidingWindowCounterRateLimiter(redis)

    async def hit(self, limit: RateLimitItem, name: str) -> LimitExceeded | None:
        """Count one call; None: it is within the limit. Raises CacheDown."""
        async with connection.deadline(connection.CALL_SECONDS):
            if await self._window.hit(limit, name):
                return None
            stats = await self._window.get_window_stats(limit, name)
        return LimitExceeded(max(1, math.ceil(stats.reset_time - time.time())))

    async def close(self) -> None:
        await self._pool.aclose()
