"""`posthaste purge` and `posthaste erase`: delete what is over, or what concerns one destination, at once."""

from collections.abc import Callable

from infra.postgres.pool import DatabasePool
from infra.postgres.retention import Retention
from jobs.model import Kind
from service.settings import Settings

CALL_SECONDS = 30.0
DAY = 86_400.0


async def purge(settings: Settings, kinds: list[Kind], days: float, say: Callable[[str], None]) -> int:
    """Delete jobs of these kinds that ended so long ago; `failed` and `unknown` ones stay. Returns how many.

    Raises:
        Unavailable, TryAgain: Postgres does not answer; run it again.
    """
    pool = DatabasePool(settings.database_url, name="purge", threads=1)
    try:
        retention, total = Retention(pool), 0
        for kind in kinds:
            async for count in retention.purge_all(kind, days * DAY):
                total += count
            say(f"{kind}s: done")
        return total
    finally:
        pool.close()


async def erase(settings: Settings, destination: str, client: str | None) -> tuple[int, int]:
    """Delete every message to a destination that has ended, with its attempts and callbacks: how many, and how many are left
    because they are under way.

    Raises:
        Unavailable, TryAgain: Postgres does not answer; run it again.
    """
    pool = DatabasePool(settings.database_url, name="erase", threads=1, statement_seconds=CALL_SECONDS)
    try:
        retention, total, count = Retention(pool), 0, 1
        while count:
            count = await retention.erase(destination, client, CALL_SECONDS)
            total += count
        return total, await retention.under_way(destination, client, CALL_SECONDS)
    finally:
        pool.close()
