"""The status cache: one value a job. Writes compare the job's version, so a late write never replaces a newer status."""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import structlog
from redis.asyncio import Redis

from infra.redis import connection
from jobs.lifecycle import Status, has_exit
from jobs.model import Kind, KnownStatus

log = structlog.get_logger()

STALE_SECONDS = 1.0  # older statuses are not written: an expired key has no version to compare
SHARD_DIGITS = 3  # the last hexadecimal digits of a job's id, which are random, are its shard
_LONG_TTL_MS = 3_600_000

# Compare and set: KEYS[i] gets ARGV[2i-1] ("version status kind owner") for ARGV[2i] milliseconds, unless it has a newer one.
# A newer value is published on the channel of the job's shard, ARGV[#ARGV] .. shard, after the job's id.
_WRITE = f"""
for i = 1, #KEYS do
    local held = redis.call('GET', KEYS[i])
    local new = ARGV[2 * i - 1]
    local newer = tonumber(string.match(new, '^%d+')) - (held and tonumber(string.match(held, '^%d+')) or 0)
    if not held or newer >= 0 then
        redis.call('SET', KEYS[i], new, 'PX', ARGV[2 * i])
    end
    if newer > 0 then
        redis.call('PUBLISH', ARGV[#ARGV] .. string.sub(KEYS[i], -{SHARD_DIGITS}), string.sub(KEYS[i], -36) .. ' ' .. new)
    end
end
"""


class StatusCache:
    """Reads and writes in batches, each within 50 ms. Statuses that can still change expire after `ttl_seconds`."""

    def __init__(self, url: str, *, namespace: str, ttl_seconds: float):
        self._redis = Redis.from_pool(connection.open_pool(url, 8))
        self._write = self._redis.register_script(_WRITE)
        self._prefix = f"{namespace}:job:"
        self._channel = channel(namespace)
        self._ttl_ms = int(ttl_seconds * 1000)

    def _key(self, id_: UUID) -> str:
        return f"{self._prefix}{id_}"

    async def read(self, ids: Sequence[UUID], timeout: float = connection.CALL_SECONDS) -> list[KnownStatus | None]:
        """The cached statuses of these jobs, in their order; None: not cached. Raises CacheDown."""
        at = time.monotonic()
        async with connection.deadline(min(timeout, connection.CALL_SECONDS)):
            values: Sequence[Any] = await self._redis.mget([self._key(id_) for id_ in ids])
        return [None if value is None else parse(id_, value, at) for id_, value in zip(ids, values, strict=True)]

    async def write(self, entries: Sequence[KnownStatus], timeout: float = connection.CALL_SECONDS) -> list[None]:
        """Write each status, unless the cache has a newer version or the status is stale. Raises CacheDown."""
        now = time.monotonic()
        fresh = [entry for entry in entries if now - entry.at <= STALE_SECONDS]
        if fresh:
            arguments: list[str | int] = []
            for entry in fresh:
                ttl = self._ttl_ms if has_exit(entry.status) else _LONG_TTL_MS
                arguments += [f"{entry.version} {entry.status} {entry.kind} {entry.client_id}", ttl]
            keys = [self._key(entry.id) for entry in fresh]
            async with connection.deadline(min(timeout, connection.CALL_SECONDS)):
                await self._write(keys=keys, args=[*arguments, f"{self._channel}:"])
        return [None] * len(entries)

    async def ping(self) -> None:
        """Return if Redis answers within 200 ms. Raises CacheDown."""
        async with connection.deadline(connection.CALL_SECONDS * 4):
            await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()


def channel(namespace: str) -> str:
    """The channel of the cached statuses: `:` and the shard follow."""
    return f"{namespace}:events"


def parse(id_: UUID, value: bytes, at: float) -> KnownStatus | None:
    """Parse a value of the cache or its channel; None: this release cannot read it."""
    try:
        return KnownStatus(id_, *_parts(value), at)
    except ValueError:
        log.debug("cache.unreadable", id=str(id_), effect="the status is read from the ledger")
        return None


@lru_cache(maxsize=1024)
def _parts(value: bytes) -> tuple[int, Status, Kind, str]:
    """The parts of a value. Most jobs have one of few values."""
    version, status, kind, client_id = value.decode().split(" ", 3)
    return int(version), Status(status), Kind(kind), client_id
