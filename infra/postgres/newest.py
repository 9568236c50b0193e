"""Reads of the console: newest reports, recent callbacks, recent calls of providers. Each reads a bounded number of rows."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status
from jobs.model import Kind

RECENT_JOBS = 5000  # the newest jobs, among which callbacks and calls are searched: they have no list of their own
MOST_WAITING = 500  # callbacks that wait, and as many that are dead
MOST_SEARCHED = 20_000  # waiting callbacks of all clients, among which those of one client are searched

# The clients by a loose index scan, then the newest reports of each.
_REPORTS = sa.text("""
WITH RECURSIVE c(client_id) AS (
    (SELECT client_id FROM jobs WHERE kind = 'report' ORDER BY client_id LIMIT 1)
    UNION ALL
    SELECT (SELECT j.client_id FROM jobs j WHERE j.kind = 'report' AND j.client_id > c.client_id ORDER BY j.client_id LIMIT 1)
    FROM c WHERE c.client_id IS NOT NULL
)
SELECT j.id, j.client_id, j.status, j.reason, j.created_at, j.finished_at FROM c CROSS JOIN LATERAL (
    SELECT * FROM jobs r WHERE r.client_id = c.client_id AND r.kind = 'report' AND r.id < CAST(:before AS uuid)
    ORDER BY r.id DESC LIMIT :limit
) j
WHERE c.client_id = coalesce(:client_id, c.client_id) ORDER BY j.id DESC LIMIT :limit
""")

_CALLBACK = "id, parent_id, client_id, destination, status, attempts, reason, created_at, finished_at"
_WITH_PARENTS = """
SELECT found.*, p.kind AS parent_kind FROM ({found}) found LEFT JOIN jobs p ON p.id = found.parent_id ORDER BY found.id DESC
"""
# Recent ones of any status, those that wait, and the dead ones, each by its own index.
_OF_ALL = f"""
    (SELECT {_CALLBACK} FROM (SELECT * FROM jobs ORDER BY id DESC LIMIT :recent) newest WHERE kind = 'callback')
    UNION
    (SELECT {_CALLBACK} FROM jobs WHERE kind = 'callback' AND provider IS NULL AND status IN ('queued', 'retrying')
        ORDER BY due_at LIMIT :most)
    UNION
    (SELECT {_CALLBACK} FROM jobs WHERE kind = 'callback' AND coalesce(provider, '') = '' AND status IN ('failed', 'unknown')
        ORDER BY coalesce(reason, '') LIMIT :most)
"""  # noqa: S608  the interpolated part is a constant
# The same of one client. Its recent ones are found by its recent jobs, so other clients' jobs hide none of them.
_OF_CLIENT = f"""
    (SELECT {_CALLBACK} FROM (
        (SELECT id AS job_id FROM jobs WHERE client_id = :client_id AND kind = 'message' ORDER BY id DESC LIMIT :recent)
        UNION ALL
        (SELECT id AS job_id FROM jobs WHERE client_id = :client_id AND kind = 'report' ORDER BY id DESC LIMIT :recent)
    ) newest CROSS JOIN LATERAL (SELECT * FROM jobs WHERE kind = 'callback' AND parent_id = job_id OFFSET 0) callbacks)
    UNION
    (SELECT {_CALLBACK} FROM (
        SELECT * FROM jobs WHERE kind = 'callback' AND provider IS NULL AND status IN ('queued', 'retrying')
        ORDER BY due_at LIMIT :searched
    ) waiting WHERE client_id = :client_id ORDER BY due_at LIMIT :most)
    UNION
    (SELECT {_CALLBACK} FROM jobs WHERE client_id = :client_id AND kind = 'callback' AND status IN ('failed', 'unknown')
        ORDER BY id DESC LIMIT :most)
"""  # noqa: S608  the interpolated part is a constant
_CALLBACKS = sa.text(_WITH_PARENTS.format(found=_OF_ALL))
_CALLBACKS_OF_CLIENT = sa.text(_WITH_PARENTS.format(found=_OF_CLIENT))

_CALLS = sa.text("""
SELECT j.provider, count(*) AS calls, count(*) FILTER (WHERE a.outcome <> 'accepted') AS failures,
    CAST(extract(epoch FROM now() - min(a.ended_at)) AS float8) AS seconds,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY a.ran_seconds) AS p50_seconds,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY a.ran_seconds) AS p99_seconds
FROM (SELECT id, provider FROM jobs ORDER BY id DESC LIMIT :recent) j JOIN attempts a ON a.job_id = j.id
WHERE j.provider IS NOT NULL AND a.ran_seconds IS NOT NULL AND a.ended_at > now() - interval '1 hour'
GROUP BY j.provider
""")


@dataclass(frozen=True, slots=True)
class ProviderCalls:
    """The calls of a provider for the newest jobs, in the last hour. `seconds`: since the oldest of them."""

    calls: int
    failures: int
    seconds: float
    p50_seconds: float
    p99_seconds: float

    @property
    def per_second(self) -> float:
        return self.calls / max(1.0, self.seconds)


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A report in a list."""

    id: UUID
    client_id: str
    status: Status
    reason: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class CallbackRow:
    """A callback. `destination`: its URL; `parent_id`: the job whose final status it reports."""

    id: UUID
    parent_id: UUID | None  # None: an event of the installation
    parent_kind: Kind | None  # None: the job is deleted
    client_id: str
    destination: str
    status: Status
    attempts: int
    reason: str | None
    created_at: datetime
    finished_at: datetime | None


class NewestReads:
    """Each method is one read; see `DatabasePool.call` for what it raises. `client_id` None: of all clients."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def reports(self, client_id: str | None, before: UUID, limit: int, timeout: float) -> list[ReportRow]:
        """At most `limit` reports with ids below `before`, newest first."""
        rows = await self._pool.fetch(_REPORTS, timeout, client_id=client_id, before=str(before), limit=limit)
        return [ReportRow(**{**row, "status": Status(row["status"])}) for row in rows]

    async def callbacks(self, client_id: str | None, timeout: float) -> list[CallbackRow]:
        """Callbacks among the newest jobs, and a bounded number of waiting and dead ones, newest first.

        Those of a client are the callbacks of its own newest messages and reports.
        """
        bounds: dict[str, object] = {"recent": RECENT_JOBS, "most": MOST_WAITING}
        if client_id is None:
            rows = await self._pool.fetch(_CALLBACKS, timeout, **bounds)
        else:
            bounds |= {"client_id": client_id, "searched": MOST_SEARCHED}
            rows = await self._pool.fetch(_CALLBACKS_OF_CLIENT, timeout, **bounds)
        return [_callback(row) for row in rows]

    async def calls(self, timeout: float) -> dict[str, ProviderCalls]:
        """The recent calls, by provider."""
        rows = [dict(row) for row in await self._pool.fetch(_CALLS, timeout, recent=RECENT_JOBS)]
        return {row.pop("provider"): ProviderCalls(**row) for row in rows}


def _callback(row: sa.RowMapping) -> CallbackRow:
    kind = row["parent_kind"]
    return CallbackRow(**{**row, "status": Status(row["status"]), "parent_kind": None if kind is None else Kind(kind)})
