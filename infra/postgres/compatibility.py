"""Compatibility: whether the database has a schema and a namespace that fit this process; the checks of `posthaste doctor`."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import sqlalchemy as sa
import structlog

from infra.errors import Transient
from infra.postgres.pool import DatabasePool

MIGRATIONS = Path(__file__).parents[2] / "migrations"
_CHECK_SECONDS = 0.8

log = structlog.get_logger()

# Indexes of a running or abandoned REINDEX CONCURRENTLY belong to an operator.
INVALID_INDEXES = """SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relname !~ '_cc(new|old)[0-9]*$'
    AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
ORDER BY c.relname"""

_DIAGNOSIS = sa.text(f"""
SELECT clock_timestamp() AS clock,
    (SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'posthaste relay' AND datname = current_database()) AS relays,
    (SELECT count(*) FROM outbox WHERE due_at < now() - interval '1 minute') AS overdue,
    (SELECT coalesce(json_object_agg(provider, jobs ORDER BY provider), '{{}}') FROM (
        SELECT provider, count(*) AS jobs FROM jobs WHERE status IN ('queued', 'retrying') AND provider IS NOT NULL
        GROUP BY provider) w) AS waiting,
    (SELECT coalesce(json_object_agg(provider, paused_at ORDER BY provider), '{{}}') FROM provider_pauses) AS paused,
    ARRAY({INVALID_INDEXES}) AS invalid_indexes
""")  # noqa: S608  a constant


class SchemaTooOld(Exception):
    """The database's schema is older than this code: run `posthaste migrate`."""


class ForeignNamespace(Exception):
    """The database belongs to another namespace: POSTHASTE_DATABASE_URL or POSTHASTE_NAMESPACE is wrong."""


@cache
def code_revision() -> str:
    """The newest revision in `migrations/versions`, whose files are named by it: 0001_…, 0002_…

    It is read once: an installation of the next release under a running process does not end it.
    """
    return max(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


async def check(pool: DatabasePool, namespace: str, timeout: float) -> bool:
    """Whether the schema has this code's revision; False: a newer one, on which this code runs, too.

    Raises:
        SchemaTooOld: run `posthaste migrate`.
        ForeignNamespace: wrong database or wrong namespace.
        Unavailable: Postgres does not answer.
    """

    def work(connection: sa.Connection) -> tuple[str | None, str | None]:
        if connection.scalar(sa.text("SELECT to_regclass('installation')")) is None:
            return None, None
        revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return revision, connection.scalar(sa.text("SELECT namespace FROM installation"))

    revision, owner = await pool.call(work, timeout)
    expected = code_revision()
    if revision is None or revision < expected:
        raise SchemaTooOld(f"the schema is at {revision or 'nothing'}, this code needs {expected}: run `posthaste migrate`")
    if owner != namespace:
        raise ForeignNamespace(f"the database belongs to namespace {owner!r}, not to POSTHASTE_NAMESPACE {namespace!r}")
    return revision == expected


async def wait_until_fit(pool: DatabasePool, namespace: str, waiting: Callable[[str], None]) -> None:
    """Return once Postgres answers with a schema that fits this code. Until then `waiting` receives each reason.

    Raises:
        SchemaTooOld, ForeignNamespace: waiting would not help.
    """
    reason = ""
    while True:
        try:
            current = await check(pool, namespace, _CHECK_SECONDS)
        except Transient as error:
            if str(error) != reason:
                log.warning("postgres.waiting", reason=str(error))
            reason = str(error)
            waiting(reason)
            await asyncio.sleep(random.uniform(0.2, 0.4))  # noqa: S311  jitter, not a secret
        else:
            if not current:
                log.warning("schema.newer", code=code_revision(), effect="running on a newer schema")
            return


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`clock`: Postgres' own; `relays`: connections of relay processes; `overdue`: outbox rows due for over a minute.

    `waiting`: the number of waiting jobs, by provider. `paused`: the instant of each provider's pause.
    """

    clock: datetime
    relays: int
    overdue: int
    waiting: dict[str, int]
    paused: dict[str, datetime]
    invalid_indexes: list[str]


async def diagnose(pool: DatabasePool, timeout: float) -> Diagnosis:
    """Run the checks; see `DatabasePool.call` for what it raises."""
    (row,) = await pool.fetch(_DIAGNOSIS, timeout)
    paused = {provider: datetime.fromisoformat(instant) for provider, instant in row["paused"].items()}
    return Diagnosis(**{**row, "paused": paused})
