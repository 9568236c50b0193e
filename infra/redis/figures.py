"""Live figures in Redis: counts of all processes by interval, the state of each process, and the relay's sample of the ledger.

Redis' clock assigns each report to its interval, so the clocks of the hosts need not agree. Everything expires: counts after
a bit more than an hour, the state of a process after some seconds without a report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from infra.redis import connection

INTERVAL_SECONDS = 10
KEPT_SECONDS = 3720  # an hour, and the reports that are late
PROCESS_SECONDS = 8.0  # four reports of a process
MOST_PROCESSES = 1000
CALL_SECONDS = 1.0  # no request waits for it

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local interval = math.floor(now / (1000 * ARGV[1])) * ARGV[1]
"""

# KEYS: the set of processes, and the key of this one. ARGV: interval, prefix of the counts, their life in seconds, the life
# of a state in milliseconds, the state, then names and counts.
_REPORT = f"""{_NOW}
redis.call('SET', KEYS[2], now .. ' ' .. ARGV[5], 'PX', ARGV[4])
redis.call('ZADD', KEYS[1], now, KEYS[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if #ARGV > 5 then
    local key = ARGV[2] .. interval
    for i = 6, #ARGV, 2 do
        redis.call('HINCRBY', key, ARGV[i], ARGV[i + 1])
    end
    redis.call('EXPIRE', key, ARGV[3])
end
"""

# KEYS: the set of processes, and the sample of the ledger. ARGV: interval, prefix of the counts, number of intervals, most
# processes.
_READ = f"""{_NOW}
local states = {{}}
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[4] - 1)) do
    local state = redis.call('GET', key)
    if state then
        states[#states + 1] = state
    end
end
local counts = {{}}
for start = interval - (ARGV[3] - 1) * ARGV[1], interval, ARGV[1] do
    counts[#counts + 1] = redis.call('HGETALL', ARGV[2] .. start)
end
return {{now, states, redis.call('GET', KEYS[2]), counts}}
"""


@dataclass(frozen=True, slots=True)
class StoredFigures:
    """Everything at one instant. Instants are milliseconds of Redis' clock.

    `states`: of processes, with the instant of each report. `counts`: by the start of their interval in seconds, oldest first.
    """

    now_ms: int
    states: list[tuple[int, bytes]]
    ledger: bytes | None
    counts: dict[int, dict[str, int]]


class FiguresStore:
    """Writes and reads, each in one round trip within a second. The methods raise CacheDown."""

    def __init__(self, url: str, *, namespace: str):
        self._redis = Redis.from_pool(connection.open_pool(url, 2))
        prefix = f"{namespace}:figures:"
        self._counts, self._processes, self._ledger = f"{prefix}counts:", f"{prefix}processes", f"{prefix}ledger"
        self._report = self._redis.register_script(_REPORT)
        self._read = self._redis.register_script(_READ)

    async def report(self, process_id: str, state: bytes, counts: Mapping[str, int]) -> None:
        """Write the state of a process, and add its counts to the present interval."""
        lives = [KEPT_SECONDS, int(PROCESS_SECONDS * 1000)]
        arguments: list[bytes | str | float] = [INTERVAL_SECONDS, self._counts, *lives, state]
        for name, count in counts.items():
            arguments += [name, count]
        async with connection.deadline(CALL_SECONDS):
            await self._report(keys=[self._processes, self._key(process_id)], args=arguments)

    async def leave(self, process_id: str) -> None:
        """Remove a process that ends."""
        async with connection.deadline(CALL_SECONDS):
            await self._redis.zrem(self._processes, self._key(process_id))

    async def write_ledger(self, sample: bytes, seconds: float) -> None:
        """Write the sample of the ledger, for so many seconds."""
        async with connection.deadline(CALL_SECONDS):
            await self._redis.set(self._ledger, sample, px=int(seconds * 1000))

    async def read(self, intervals: int) -> StoredFigures:
        """Read the present interval and those before it, `intervals` in all."""
        arguments: list[str | float] = [INTERVAL_SECONDS, self._counts, intervals, MOST_PROCESSES]
        async with connection.deadline(CALL_SECONDS):
            now, states, ledger, counts = await self._read(keys=[self._processes, self._ledger], args=arguments)
        newest = now // 1000 // INTERVAL_SECONDS * INTERVAL_SECONDS
        starts = range(newest - (intervals - 1) * INTERVAL_SECONDS, newest + 1, INTERVAL_SECONDS)
        by_start = {start: _counts(fields) for start, fields in zip(starts, counts, strict=True)}
        return StoredFigures(now, [_stamped(state) for state in states], ledger, by_start)

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, process_id: str) -> str:
        return f"{self._processes}:{process_id}"


def _stamped(state: bytes) -> tuple[int, bytes]:
    instant, _, value = state.partition(b" ")
    return int(instant), value


def _counts(fields: Sequence[bytes]) -> dict[str, int]:
    return {name.decode(): int(count) for name, count in zip(fields[::2], fields[1::2], strict=True)}
