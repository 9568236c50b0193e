"""The checks of `posthaste doctor` in Postgres: clock, relays, overdue rows, providers with work, invalid indexes."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from infra.postgres.migration import INVALID_INDEXES
from infra.postgres.pool import DatabasePool

_LOOK = sa.text("""
SELECT clock_timestamp() AS clock,
    (SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'posthaste relay' AND datname = current_database()) AS relays,
    (SELECT count(*) FROM outbox WHERE due_at < now() - interval '1 minute') AS overdue
""")

_PROVIDERS_WITH_WORK = sa.text("""
SELECT provider, count(*) AS jobs FROM jobs WHERE status IN ('queued', 'retrying') AND provider IS NOT NULL
GROUP BY provider ORDER BY provider
""")


_PAUSED = sa.text("SELECT provider, paused_at FROM provider_pauses ORDER BY provider")


@dataclass(frozen=True, slots=True)
class Look:
    """`clock`: Postgres' own; `relays`: connections of relay processes; `overdue`: outbox rows due for over a minute.

    `paused`: the instant of each provider's pause.
    """

    clock: datetime
    relays: int
    overdue: int
    waiting: dict[str, int]
    paused: dict[str, datetime]
    invalid_indexes: list[str]


async def look(pool: DatabasePool, timeout: float) -> Look:
    """Run the checks; see `DatabasePool.call` for what it raises."""

    def work(connection: sa.Connection) -> Look:
        row = connection.execute(_LOOK).one()
        waiting = {row.provider: row.jobs for row in connection.execute(_PROVIDERS_WITH_WORK)}
        paused = {row.provider: row.paused_at for row in connection.execute(_PAUSED)}
        invalid = list(connection.execute(INVALID_INDEXES).scalars())
        return Look(row.clock, row.relays, row.overdue, waiting, paused, invalid)

    return await pool.call(work, timeout)
