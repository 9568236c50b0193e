"""The checks of `posthaste doctor` in Postgres: clock, relays, overdue rows, providers with work, invalid indexes."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from infra.postgres.migration import INVALID_INDEXES
from infra.postgres.pool import DatabasePool

_LOOK = sa.text(f"""
SELECT clock_timestamp() AS clock,
    (SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'posthaste relay' AND datname = current_database()) AS relays,
    (SELECT count(*) FROM outbox WHERE due_at < now() - interval '1 minute') AS overdue,
    (SELECT coalesce(json_object_agg(provider, jobs ORDER BY provider), '{{}}') FROM (
        SELECT provider, count(*) AS jobs FROM jobs WHERE status IN ('queued', 'retrying') AND provider IS NOT NULL
        GROUP BY provider) w) AS waiting,
    ARRAY(SELECT provider FROM provider_pauses ORDER BY provider) AS paused,
    ARRAY({INVALID_INDEXES}) AS invalid_indexes
""")  # noqa: S608  a constant


@dataclass(frozen=True, slots=True)
class Look:
    """`clock`: Postgres' own; `relays`: connections of relay processes; `overdue`: outbox rows due for over a minute.

    `waiting`: the number of waiting jobs, by provider.
    """

    clock: datetime
    relays: int
    overdue: int
    waiting: dict[str, int]
    paused: list[str]
    invalid_indexes: list[str]


async def look(pool: DatabasePool, timeout: float) -> Look:
    """Run the checks; see `DatabasePool.call` for what it raises."""
    (row,) = await pool.fetch(_LOOK, timeout)
    return Look(**row)
