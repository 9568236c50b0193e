"""Providers: pauses, and the number of messages that wait for each."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.move import move
from jobs.model import Priority

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
        return await self._pool.call(lambda c: frozenset(row.provider for row in c.execute(_PAUSED)), timeout)

    async def pause(self, provider: str, timeout: float) -> bool:
        """False: the provider was paused already."""
        return await self._pool.call(lambda c: c.execute(_PAUSE, {"provider": provider}).rowcount == 1, timeout)

    async def resume(self, provider: str, timeout: float) -> bool:
        """False: the provider was not paused."""
        return await self._pool.call(lambda c: c.execute(_RESUME, {"provider": provider}).rowcount == 1, timeout)

    async def states(self, timeout: float) -> dict[str, ProviderState]:
        """Every provider that is paused or has waiting messages."""

        def work(connection: sa.Connection) -> dict[str, ProviderState]:
            rows = connection.execute(_LIST)
            return {row.provider: ProviderState(row.waiting, row.processing, row.paused_at) for row in rows}

        return await self._pool.call(work, timeout)

    async def move(self, old: str, new: str, priority: Priority, timeout: float) -> int:
        """Move at most `BATCH` waiting messages from provider `old` to `new`; returns how many."""
        return await self._pool.call(lambda connection: move(connection, old, new, priority, BATCH), timeout)
