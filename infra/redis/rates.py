"""Request rates, counted in Redis for all processes by the library `limits`."""

import asyncio
import math
import time
from dataclasses import dataclass

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from infra.redis.status_cache import CALL_SECONDS, CacheDown
from infra.redis.tls import share_context


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit is exceeded. The next call is admitted after `seconds`."""

    seconds: int


class Rates:
    """Counts calls within a sliding window, with two counters a name. Each Redis call has a timeout of 50 ms."""

    def __init__(self, url: str, *, namespace: str):
        self._pool = BlockingConnectionPool.from_url(
            url, max_connections=32, timeout=CALL_SECONDS, socket_timeout=1.0, socket_connect_timeout=1.0
        )
        share_context(self._pool)
        # The library requires a URL of its own form even with an explicit pool.
        redis = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{namespace}:rates",
            connection_pool=self._pool,  # type: ignore[arg-type]
        )
        self._window = SlidingWindowCounterRateLimiter(redis)

    async def hit(self, limit: RateLimitItem, name: str) -> LimitExceeded | None:
        """Count one call; None: it is within the limit.

        Raises:
            CacheDown: Redis does not answer in time.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                if await self._window.hit(limit, name):
                    return None
                stats = await self._window.get_window_stats(limit, name)
        except (RedisError, OSError, TimeoutError) as error:
            raise CacheDown(str(error) or "no answer within 50 ms") from error
        return LimitExceeded(max(1, math.ceil(stats.reset_time - time.time())))

    async def close(self) -> None:
        await self._pool.aclose()
