"""The sweep: jobs that wait, are due, and have no outbox row get one again at the same version.

So a message that was lost inside the broker (a purge, a deleted queue, wiped data) is published again. Where it was not lost
after all, the copy is harmless: it names a version, and one of the two finds it gone.
"""

from datetime import datetime

import sqlalchemy as sa

from infra.postgres.lanes import Lane
from infra.postgres.statements import DEAD_HEADERS
from jobs.model import DEAD_QUEUES, Kind, Priority, work_queue

BATCH = 1000

_SWEEP = sa.text("""
INSERT INTO outbox (job_id, version, route, queue, due_at)
SELECT j.id, j.version, 'work', :queue, now() FROM jobs j
WHERE j.provider = :provider AND j.priority = :priority AND j.status IN ('queued', 'retrying')
    AND j.due_at < now() - :older * interval '1 second'
    AND (CAST(:before AS timestamptz) IS NULL OR j.due_at < CAST(:before AS timestamptz))
    AND NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = j.id AND o.version = j.version)
ORDER BY j.due_at LIMIT :limit
ON CONFLICT DO NOTHING
""")

_CLAIMED_UNTIL = sa.text("""
SELECT max(due_at) FROM jobs WHERE provider = :provider AND priority = :priority AND status = 'processing'
""")

_REFILL_DEAD = sa.text(f"""
WITH dead AS (
    SELECT j.*, (SELECT a.provider_code FROM attempts a WHERE a.job_id = j.id ORDER BY a.revision DESC, a.n DESC LIMIT 1)
    FROM jobs j WHERE j.status IN ('failed', 'unknown') AND j.kind = :kind AND j.id > CAST(:after AS uuid)
    ORDER BY j.id LIMIT :limit
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, headers)
    SELECT id, version, 'dead', :queue, now(), {DEAD_HEADERS} FROM dead
    ON CONFLICT DO NOTHING
)
SELECT CAST(max(CAST(id AS text)) AS text) AS last, count(*) AS jobs FROM dead
""")  # noqa: S608  the interpolated part is a constant


class Sweep:
    """Each method is one transaction; see `Lane.call` for what it raises."""

    def __init__(self, lane: Lane):
        self._lane = lane

    async def requeue(
        self, provider: str, priority: Priority, *, older_seconds: float, before: datetime | None, timeout: float
    ) -> int:
        """At most `BATCH` jobs that have been due for so long (and since before that instant): how many got a row again."""
        parameters = {
            "queue": work_queue(provider, priority),
            "provider": provider,
            "priority": priority,
            "older": older_seconds,
            "before": before,
            "limit": BATCH,
        }
        return await self._lane.call(lambda connection: connection.execute(_SWEEP, parameters).rowcount, timeout)

    async def claimed_until(self, provider: str, priority: Priority, timeout: float) -> datetime | None:
        """When the youngest job that is being worked on now became due."""
        parameters = {"provider": provider, "priority": priority}
        return await self._lane.call(lambda connection: connection.execute(_CLAIMED_UNTIL, parameters).scalar_one(), timeout)

    async def refill_dead(self, kind: Kind, after: str, timeout: float) -> tuple[str | None, int]:
        """Publish copies of at most `BATCH` dead letters again, by id from `after` on: the last id, and how many."""
        parameters = {"kind": kind, "queue": DEAD_QUEUES[kind], "after": after, "limit": BATCH}

        def work(connection: sa.Connection) -> tuple[str | None, int]:
            row = connection.execute(_REFILL_DEAD, parameters).one()
            return row.last, row.jobs

        return await self._lane.call(work, timeout)
