"""A sample of the ledger for live figures, at a bounded cost.

Each count reads at most `COUNT_LIMIT` entries of one index, oldest first, however many jobs there are:

| figure | index |
| --- | --- |
| waiting messages by provider and priority | `jobs_waiting` |
| waiting reports and callbacks | `jobs_waiting_by_kind` |
| dead letters by kind, provider and reason | `jobs_dead_by_reason` |
| jobs in progress | `jobs_lease` |
| due outbox rows by queue | `outbox_due` |

Loose index scans find the providers, reasons and queues with one probe each.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.model import CALLBACKS, REPORTS, Kind, Priority, WorkQueue, work_queues

COUNT_LIMIT = 10_000  # counts stop here: "10,000+"
MOST_GROUPS = 500  # groups of dead letters of one kind in a sample


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One work queue by its logical name. `waiting` stops at `COUNT_LIMIT`; `oldest_seconds`: since its oldest job was due."""

    name: str
    waiting: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class DeadLetterFigures:
    """Dead letters with the same reason; `count` stops at `COUNT_LIMIT`."""

    kind: str
    provider: str | None
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class LedgerFigures:
    """A sample of the ledger, which the active relay takes. `outbox_due`: rows that are due and not yet published."""

    at: datetime
    queues: list[QueueFigures]
    dead_letters: list[DeadLetterFigures]
    processing: int
    outbox_due: int
    outbox_oldest_seconds: float | None
    paused: dict[str, datetime]  # provider and the start of its pause


MESSAGES = sa.text("""
WITH RECURSIVE q(provider, priority) AS (
    (SELECT provider, priority FROM jobs WHERE status IN ('queued', 'retrying') AND provider IS NOT NULL
        ORDER BY provider, priority LIMIT 1)
    UNION ALL
    SELECT next.provider, next.priority FROM q CROSS JOIN LATERAL (
        SELECT j.provider, j.priority FROM jobs j
        WHERE j.status IN ('queued', 'retrying') AND (j.provider, j.priority) > (q.provider, q.priority)
        ORDER BY j.provider, j.priority LIMIT 1
    ) next
)
SELECT q.provider, q.priority, due.waiting, due.oldest FROM q CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, CAST(extract(epoch FROM now() - min(due_at)) AS float8) AS oldest FROM (
        SELECT j.due_at FROM jobs j WHERE j.provider = q.provider AND j.priority = q.priority
            AND j.status IN ('queued', 'retrying') AND j.due_at <= now()
        ORDER BY j.due_at LIMIT :limit
    ) first
) due
""")

OTHERS = sa.text("""
SELECT k.kind, due.waiting, due.oldest FROM unnest(CAST(:kinds AS text[])) AS k(kind) CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, CAST(extract(epoch FROM now() - min(due_at)) AS float8) AS oldest FROM (
        SELECT j.due_at FROM jobs j WHERE j.kind = k.kind AND j.provider IS NULL
            AND j.status IN ('queued', 'retrying') AND j.due_at <= now()
        ORDER BY j.due_at LIMIT :limit
    ) first
) due
""")

# The groups of each kind are limited separately, so that many groups of one kind hide no other kind.
_GROUP = "coalesce(provider, ''), coalesce(reason, '')"
_DEAD = "status IN ('failed', 'unknown')"
DEAD_LETTERS = sa.text(f"""
SELECT k.kind, nullif(groups.provider, '') AS provider, groups.reason, counted.letters
FROM unnest(CAST(:kinds AS text[])) AS k(kind) CROSS JOIN LATERAL (
    WITH RECURSIVE g(provider, reason) AS (
        (SELECT {_GROUP} FROM jobs WHERE {_DEAD} AND kind = k.kind ORDER BY {_GROUP} LIMIT 1)
        UNION ALL
        SELECT next.* FROM g CROSS JOIN LATERAL (
            SELECT {_GROUP} FROM jobs WHERE {_DEAD} AND kind = k.kind AND ({_GROUP}) > (g.provider, g.reason)
            ORDER BY {_GROUP} LIMIT 1
        ) next
    ) SELECT * FROM g LIMIT :groups
) groups CROSS JOIN LATERAL (
    SELECT count(*) AS letters FROM (
        SELECT FROM jobs WHERE {_DEAD} AND jobs.kind = k.kind
            AND coalesce(jobs.provider, '') = groups.provider AND coalesce(jobs.reason, '') = groups.reason
        LIMIT :limit
    ) first
) counted
""")  # noqa: S608  the interpolated parts are constants

PROCESSING = sa.text("""
SELECT now() AS at, (SELECT count(*) FROM (
    SELECT FROM jobs WHERE status = 'processing' ORDER BY lease_until LIMIT :limit
) first) AS processing
""")

# A row is due after the grace of its committing process. So these rows were not published by it.
OUTBOX = sa.text("""
WITH RECURSIVE q(queue) AS (
    (SELECT queue FROM outbox ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT o.queue FROM outbox o WHERE o.queue > q.queue ORDER BY o.queue LIMIT 1) FROM q WHERE q.queue IS NOT NULL
)
SELECT coalesce(sum(due.rows), 0) AS rows, CAST(extract(epoch FROM now() - min(due.oldest)) AS float8) AS oldest
FROM q CROSS JOIN LATERAL (
    SELECT count(*) AS rows, min(due_at) AS oldest FROM (
        SELECT o.due_at FROM outbox o WHERE o.queue = q.queue AND o.due_at <= now() ORDER BY o.due_at LIMIT :limit
    ) first
) due
""")

PAUSED = sa.text("SELECT provider, paused_at FROM provider_pauses")


class LedgerSample:
    """Takes samples. `providers`: the configured ones, whose queues are listed even when no job waits."""

    def __init__(self, pool: DatabasePool, providers: Iterable[str]):
        self._pool = pool
        self._queues = [queue.name for queue in work_queues(providers)]

    async def take(self, timeout: float) -> LedgerFigures:
        """Take one sample, in several short statements; see `DatabasePool.call` for what it raises."""
        return await self._pool.call(self._take, timeout)

    def _take(self, connection: sa.Connection) -> LedgerFigures:
        state = connection.execute(PROCESSING, {"limit": COUNT_LIMIT}).one()
        outbox = connection.execute(OUTBOX, {"limit": COUNT_LIMIT}).one()
        groups = {"kinds": [kind.value for kind in Kind], "groups": MOST_GROUPS, "limit": COUNT_LIMIT}
        letters = connection.execute(DEAD_LETTERS, groups).all()
        return LedgerFigures(
            at=state.at,
            queues=self._waiting(connection),
            dead_letters=[DeadLetterFigures(row.kind, row.provider, row.reason, row.letters) for row in letters],
            processing=state.processing,
            outbox_due=min(COUNT_LIMIT, int(outbox.rows)),
            outbox_oldest_seconds=outbox.oldest,
            paused={row.provider: row.paused_at for row in connection.execute(PAUSED)},
        )

    def _waiting(self, connection: sa.Connection) -> list[QueueFigures]:
        """The configured queues, and those of other providers with waiting messages."""
        found = {name: QueueFigures(name, 0, None) for name in self._queues}
        kinds = [REPORTS.kind.value, CALLBACKS.kind.value]
        for row in connection.execute(OTHERS, {"limit": COUNT_LIMIT, "kinds": kinds}):
            queue = WorkQueue(Kind(row.kind))
            found[queue.name] = QueueFigures(queue.name, row.waiting, row.oldest)
        for row in connection.execute(MESSAGES, {"limit": COUNT_LIMIT}):
            queue = WorkQueue(Kind.MESSAGE, row.provider, Priority(row.priority))
            if row.waiting or queue.name in found:
                found[queue.name] = QueueFigures(queue.name, row.waiting, row.oldest)
        return list(found.values())
