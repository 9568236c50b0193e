"""The sweep: jobs that wait, are due, and have no outbox row get one again at the same version.

So a message that was lost inside the broker (a purge, a deleted queue, wiped data) is published again. Where it was not lost
after all, the copy is harmless: it names a version, and one of the two finds it gone.
"""

from datetime import datetime

import sqlalchemy as sa

from infra.postgres.lanes import Lane
from infra.postgres.statements import DEAD_HEADERS
from jobs.model import DEAD_QUEUES, Kind, WorkQueue

BATCH = 1000

# Two forms: `provider IS NOT DISTINCT FROM :provider` would be one, but no index serves it. `kind || ''` keeps the planner from
# the index of all reports there ever were.
_OF_PROVIDER = "provider = :provider"
_OF_NONE = "provider IS NULL AND kind || '' = :kind"

_SWEEP = """
INSERT INTO outbox (job_id, version, route, queue, due_at)
SELECT j.id, j.version, 'work', :queue, now() FROM jobs j
WHERE {of} AND j.priority = :priority AND j.status IN ('queued', 'retrying')
    AND j.due_at < now() - :older * interval '1 second'
    AND (CAST(:before AS timestamptz) IS NULL OR j.due_at < CAST(:before AS timestamptz))
    AND NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = j.id AND o.version = j.version)
ORDER BY j.provider, j.priority, j.due_at LIMIT :limit
ON CONFLICT DO NOTHING
"""

_CLAIMED_UNTIL = """
SELECT max(due_at) FROM jobs WHERE {of} AND priority = :priority AND status = 'processing'
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
    INSERT INTO outbox (job_id, version, route, queue, due_at, headers)
    SELECT id, version, 'dead', :queue, now(), {DEAD_HEADERS} FROM dead
    ON CONFLICT DO NOTHING
)
SELECT CAST(max(CAST(id AS text)) AS text) AS last, count(*) AS jobs FROM dead
""")  # noqa: S608  the interpolated part is a constant


def _of(statement: str, queue: WorkQueue) -> sa.TextClause:
    return sa.text(statement.format(of=_OF_NONE if queue.provider is None else _OF_PROVIDER))


def _parameters(queue: WorkQueue) -> dict[str, str]:
    which = {"kind": queue.kind} if queue.provider is None else {"provider": queue.provider}
    return {"priority": queue.priority, **which}


class Sweep:
    """Each method is one transaction; see `Lane.call` for what it raises."""

    def __init__(self, lane: Lane):
        self._lane = lane

    async def requeue(self, queue: WorkQueue, *, older_seconds: float, before: datetime | None, timeout: float) -> int:
        """At most `BATCH` jobs that have been due for so long (and since before that instant): how many got a row again."""
        parameters = {"queue": queue.name, "older": older_seconds, "before": before, "limit": BATCH, **_parameters(queue)}
        return await self._lane.call(lambda connection: connection.execute(_of(_SWEEP, queue), parameters).rowcount, timeout)

    async def claimed_until(self, queue: WorkQueue, timeout: float) -> datetime | None:
        """When the youngest job that is being worked on now became due."""
        statement, parameters = _of(_CLAIMED_UNTIL, queue), _parameters(queue)
        return await self._lane.call(lambda connection: connection.execute(statement, parameters).scalar_one(), timeout)

    async def refill_dead(self, kind: Kind, after: str, timeout: float) -> tuple[str | None, int]:
        """Publish copies of at most `BATCH` dead letters again, by id from `after` on: the last id, and how many."""
        parameters = {"kind": kind, "queue": DEAD_QUEUES[kind], "after": after, "limit": BATCH}

        def work(connection: sa.Connection) -> tuple[str | None, int]:
            row = connection.execute(_REFILL_DEAD, parameters).one()
            return row.last, row.jobs

        return await self._lane.call(work, timeout)
