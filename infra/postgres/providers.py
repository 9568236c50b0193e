"""Providers: pauses, and the number of messages that wait for each."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.sql import in_list
from jobs.lifecycle import Cause, sources
from jobs.model import Priority, message_queue

BATCH = 1000

_PAUSED = sa.text("SELECT provider FROM provider_pauses")
_PAUSE = sa.text("INSERT INTO provider_pauses (provider) VALUES (:provider) ON CONFLICT DO NOTHING")
_RESUME = sa.text("DELETE FROM provider_pauses WHERE provider = :provider")

_LIST = sa.text("""
SELECT coalesce(w.provider, p.provider) AS provider, p.paused_at, coalesce(w.waiting, 0) AS waiting,
    coalesce(w.processing, 0) AS processing
FROM (
    SELECT provider, count(*) FILTER (WHERE status <> 'processing') AS waiting,
        count(*) FILTER (WHERE status = 'processing') AS processing
    FROM jobs WHERE status IN ('queued', 'retrying', 'processing') AND provider IS NOT NULL GROUP BY provider
) w FULL JOIN provider_pauses p ON p.provider = w.provider
""")

# A published message for the old provider names the old version, so its claim is stale.
MOVE = sa.text(f"""
WITH held AS (
    SELECT id, version FROM jobs
    WHERE provider = :old AND priority = :priority AND status IN ({in_list(sources(Cause.MOVE))})
    ORDER BY id LIMIT :limit FOR UPDATE
), moved AS (
    UPDATE jobs j SET provider = :new, version = j.version + 1, updated_at = clock_timestamp()
    FROM held WHERE j.id = held.id AND j.version = held.version RETURNING j.id, j.version, j.due_at, j.traceparent
), unneeded AS (
    DELETE FROM outbox o USING moved WHERE o.job_id = moved.id AND o.version < moved.version
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, traceparent)
    SELECT id, version, 'work', :queue, due_at, traceparent FROM moved
)
SELECT count(*) FROM moved
""")  # noqa: S608  the interpolated part is a constant


@dataclass(frozen=True, slots=True)
class ProviderState:
    """Numbers of waiting and running messages; `paused_at`: None while the provider is not paused."""

    waiting: int
    processing: int
    paused_at: datetime | None


class ProviderStore:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def paused(self, timeout: float) -> frozenset[str]:
        """The paused providers."""
        return frozenset(row["provider"] for row in await self._pool.fetch(_PAUSED, timeout))

    async def pause(self, provider: str, timeout: float) -> bool:
        """False: the provider was paused already."""
        return await self._pool.execute(_PAUSE, timeout, provider=provider) == 1

    async def resume(self, provider: str, timeout: float) -> bool:
        """False: the provider was not paused."""
        return await self._pool.execute(_RESUME, timeout, provider=provider) == 1

    async def states(self, timeout: float) -> dict[str, ProviderState]:
        """Every provider that is paused or has waiting messages."""
        rows = await self._pool.fetch(_LIST, timeout)
        return {row["provider"]: ProviderState(row["waiting"], row["processing"], row["paused_at"]) for row in rows}

    async def move(self, old: str, new: str, priority: Priority, timeout: float) -> int:
        """Move at most `BATCH` waiting messages from provider `old` to `new`; returns how many."""
        parameters = {"old": old, "new": new, "priority": priority, "limit": BATCH}
        return int(await self._pool.value(MOVE, timeout, queue=message_queue(new, priority).name, **parameters))
