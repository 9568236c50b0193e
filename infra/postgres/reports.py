"""Reads of reports."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """A report as its client sees it. `last_reason`: of the last attempt; `reason`: of the job."""

    id: UUID
    status: Status
    version: int
    attempts: int
    reason: str | None
    last_reason: str | None
    callback_url: str | None
    progress_done: int | None
    progress_about: int | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


_REPORT_COLUMNS = """id, status, version, attempts, reason, callback_url, progress_done, progress_about,
    created_at, updated_at, finished_at,
    CASE WHEN status = 'retrying' THEN due_at END AS next_attempt_at,
    (SELECT a.reason FROM attempts a WHERE a.job_id = jobs.id ORDER BY a.revision DESC, a.n DESC LIMIT 1) AS last_reason"""

_REPORT = sa.text(f"""
SELECT {_REPORT_COLUMNS} FROM jobs WHERE id = :id AND client_id = :client_id AND kind = 'report'
""")  # noqa: S608  a constant

# By id, newest first: a UUIDv7 begins with the clock of the process that accepted the job.
_REPORTS = sa.text(f"""
SELECT {_REPORT_COLUMNS} FROM jobs WHERE client_id = :client_id AND kind = 'report' AND id < CAST(:before AS uuid)
ORDER BY id DESC LIMIT :limit
""")  # noqa: S608
_BEHIND_ALL = UUID(int=2**128 - 1)


class Reports:
    """Each method is one read; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def get(self, id_: UUID, client_id: str, timeout: float) -> ReportRecord | None:
        """The client's report with this id; None if there is none."""
        parameters = {"id": str(id_), "client_id": client_id}
        found = await self._pool.call(lambda connection: _reports(connection.execute(_REPORT, parameters)), timeout)
        return found[0] if found else None

    async def page(self, client_id: str, before: UUID | None, limit: int, timeout: float) -> list[ReportRecord]:
        """At most `limit` reports of the client, newest first, with ids below `before`."""
        parameters = {"client_id": client_id, "before": str(before or _BEHIND_ALL), "limit": limit}
        return await self._pool.call(lambda connection: _reports(connection.execute(_REPORTS, parameters)), timeout)


def _reports(rows: sa.CursorResult[Any]) -> list[ReportRecord]:
    return [ReportRecord(**{**row, "status": Status(row["status"])}) for row in rows.mappings()]
