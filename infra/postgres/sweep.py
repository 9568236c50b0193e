"""The sweep: a waiting job that is due and has no outbox row gets a new row at the same version.

A message that was lost inside the broker (a purge, a deleted queue, wiped data) is thereby published again. A duplicate is
harmless: both messages name one version, and only one claim of a version succeeds.
"""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.apply import DEAD_HEADERS
from jobs.model import DEAD_QUEUES, Kind, WorkQueue

BATCH = 1000

# Two forms, because no index serves `provider IS NOT DISTINCT FROM :provider`. Each page has the order of its index of waiting
# jobs, `jobs_waiting` or `jobs_waiting_by_kind`. `kind || ''` keeps the planner from the index of all reports.
_OF_PROVIDER = {
    "waiting": "provider = :provider",
    "claimed": "provider = :provider",
    "order": "j.provider, j.priority, j.due_at",
}
_OF_NONE = {
    "waiting": "provider IS NULL AND kind = :kind",
    "claimed": "provider IS NULL AND kind || '' = :kind",
    "order": "j.kind, j.due_at",
}

# One page of waiting jobs is scanned, whether their messages are lost or not.
_SWEEP = """
WITH waiting AS (
    SELECT j.id, j.version, j.due_at, j.traceparent FROM jobs j
    WHERE {waiting} AND j.priority = :priority AND j.status IN ('queued', 'retrying')
        AND j.due_at < CAST(:before AS timestamptz)
        AND (CAST(:after AS timestamptz) IS NULL OR j.due_at >= CAST(:after AS timestamptz))
    ORDER BY {order} LIMIT :limit
), requeued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, traceparent)
    SELECT w.id, w.version, 'work', :queue, now(), w.traceparent FROM waiting w
    WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = w.id AND o.version = w.version)
    ON CONFLICT DO NOTHING RETURNING job_id
)
SELECT (SELECT count(*) FROM requeued) AS requeued, (SELECT max(due_at) FROM waiting) AS last,
    (SELECT count(*) FROM waiting) AS scanned
"""

_OBSERVE = """
SELECT clock_timestamp() AS now,
    coalesce((SELECT true FROM outbox WHERE queue = :queue AND due_at <= now() - :behind * interval '1 second'
        ORDER BY due_at LIMIT 1), false) AS is_behind,
    (SELECT max(due_at) FROM jobs WHERE {claimed} AND priority = :priority AND status = 'processing') AS claimed_until
"""

_REFILL_DEAD = sa.text(f"""
WITH dead AS (
    SELECT j.*, last.provider_code, last.reason AS attempt_reason FROM jobs j
    LEFT JOIN LATERAL (
        SELECT a.provider_code, a.reason FROM attempts a WHERE a.job_id = j.id ORDER BY a.revision DESC, a.n DESC LIMIT 1
    ) last ON true
    WHERE j.status IN ('failed', 'unknown') AND j.kind = :kind AND j.id > CAST(:after AS uuid)
    ORDER BY j.id LIMIT :limit
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, headers, traceparent)
    SELECT id, version, 'dead', :queue, now(), {DEAD_HEADERS}, traceparent FROM dead
    ON CONFLICT DO NOTHING
)
SELECT CAST(max(CAST(id AS text)) AS text) AS last, count(*) AS jobs FROM dead
""")  # noqa: S608  the interpolated part is a constant


def _of(statement: str, queue: WorkQueue) -> sa.TextClause:
    """The statement for a queue, with the queue's parameters bound."""
    bound = {"queue": queue.name, "priority": queue.priority}
    if queue.provider is None:
        return sa.text(statement.format(**_OF_NONE)).bindparams(**bound, kind=queue.kind)
    return sa.text(statement.format(**_OF_PROVIDER)).bindparams(**bound, provider=queue.provider)


@dataclass(frozen=True, slots=True)
class Observation:
    """A queue in the ledger at `now`, Postgres' clock. `claimed_until`: the latest due instant of a running job."""

    now: datetime
    is_behind: bool
    claimed_until: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a sweep. `requeued`: number of new rows; `last`: where the next page starts, None at the end."""

    requeued: int
    last: datetime | None


class Sweep:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def observe(self, queue: WorkQueue, *, behind_seconds: float, timeout: float) -> Observation:
        """Observe a queue. The relay is behind if a row has been due for over `behind_seconds`."""
        (row,) = await self._pool.fetch(_of(_OBSERVE, queue), timeout, behind=behind_seconds)
        return Observation(**row)

    async def requeue(self, queue: WorkQueue, *, before: datetime, after: datetime | None, timeout: float) -> Page:
        """Scan at most `BATCH` jobs that became due between `after` and `before`, oldest first; add missing outbox rows."""
        (row,) = await self._pool.fetch(_of(_SWEEP, queue), timeout, before=before, after=after, limit=BATCH)
        return Page(row["requeued"], row["last"] if row["scanned"] == BATCH else None)

    async def refill_dead(self, kind: Kind, after: str, timeout: float) -> tuple[str | None, int]:
        """Publish at most `BATCH` dead letters again, by id after `after`; returns the last id and the number."""
        parameters = {"kind": kind, "queue": DEAD_QUEUES[kind], "after": after, "limit": BATCH}
        (row,) = await self._pool.fetch(_REFILL_DEAD, timeout, **parameters)
        return row["last"], row["jobs"]
