"""Reads for clients: statuses, records, attempts, callbacks, backlogs. They have their own pool, apart from the hot path."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message as its client sees it; instants by Postgres' clock."""

    id: UUID
    client_id: str
    status: Status
    version: int
    destination: str
    body: str | None
    provider: str
    priority: str
    delivery: str
    reference: str | None
    tags: list[str]
    metadata: dict[str, Any] | None
    callback_url: str | None
    attempts: int
    reason: str | None
    provider_message_id: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


_STATUSES = sa.text("SELECT id, version, status, kind, client_id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")

_MESSAGES = sa.text("""
SELECT id, client_id, status, version, destination, body, provider, priority, delivery, reference, tags, metadata,
    callback_url, attempts, reason, provider_message_id, created_at, updated_at, finished_at,
    CASE WHEN status = 'retrying' THEN due_at END AS next_attempt_at
FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND kind = 'message'
""")


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


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One ended attempt: `revision` counts requeues, `n` attempts within one; `charged`: it counts against the limit."""

    revision: int
    n: int
    outcome: str
    reason: str | None
    charged: bool
    provider_code: int | None
    ran_seconds: float | None
    ended_at: datetime


_ATTEMPTS = sa.text("""
SELECT a.revision, a.n, a.outcome, a.reason, a.charged, a.provider_code, a.ran_seconds, a.ended_at
FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id
WHERE j.id = :id AND j.client_id = coalesce(:client_id, j.client_id) AND j.kind = coalesce(:kind, j.kind)
ORDER BY a.revision, a.n
""")


@dataclass(frozen=True, slots=True)
class CallbackRecord:
    """One callback of a job. `id`: its `webhook-id`; `sequence`: the version of the job that it reports."""

    id: UUID
    type: str
    sequence: int
    url: str
    status: str
    attempts: int
    reason: str | None
    created_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


_CALLBACKS = sa.text("""
SELECT c.id, CAST(c.body AS json) ->> 'type' AS type, c.parent_version AS sequence, c.destination AS url, c.status, c.attempts,
    c.reason, c.created_at, c.finished_at, CASE WHEN c.status = 'retrying' THEN c.due_at END AS next_attempt_at
FROM jobs j LEFT JOIN jobs c ON c.parent_id = j.id AND c.kind = 'callback'
WHERE j.id = :id AND j.client_id = :client_id AND j.kind = :kind
ORDER BY c.parent_version
""")


_BACKLOG = sa.text("""
SELECT count(*) FROM (
    SELECT FROM jobs WHERE client_id = :client_id AND status IN ('queued', 'retrying') AND kind <> 'callback'
        AND due_at <= now() AND (provider IS NULL OR provider NOT IN (SELECT provider FROM provider_pauses))
    LIMIT :most
) waiting
""")


class Queries:
    """Each method is one read; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def statuses(self, ids: Sequence[UUID], timeout: float) -> list[KnownStatus | None]:
        """The statuses of these jobs, in order; None for an unknown id."""
        at = time.monotonic()

        def work(connection: sa.Connection) -> dict[UUID, KnownStatus]:
            rows = connection.execute(_STATUSES, {"ids": [str(id_) for id_ in ids]})
            return {
                row.id: KnownStatus(row.id, row.version, Status(row.status), Kind(row.kind), row.client_id, at) for row in rows
            }

        known = await self._pool.call(work, timeout)
        return [known.get(id_) for id_ in ids]

    async def messages(self, ids: Sequence[UUID], timeout: float) -> list[MessageRecord | None]:
        """The messages with these ids, in order and of any client; None for an unknown id."""

        def work(connection: sa.Connection) -> dict[UUID, MessageRecord]:
            rows = connection.execute(_MESSAGES, {"ids": [str(id_) for id_ in ids]}).mappings()
            return {row["id"]: MessageRecord(**{**row, "status": Status(row["status"])}) for row in rows}

        records = await self._pool.call(work, timeout)
        return [records.get(id_) for id_ in ids]

    async def attempts(self, id_: UUID, client_id: str | None, kind: Kind | None, timeout: float) -> list[AttemptRecord] | None:
        """Attempts of a job, oldest first; None if the client has no such job. `client_id`, `kind`: None matches any."""
        parameters = {"id": str(id_), "client_id": client_id, "kind": kind}

        def work(connection: sa.Connection) -> list[AttemptRecord] | None:
            rows = connection.execute(_ATTEMPTS, parameters).mappings().all()
            return [AttemptRecord(**row) for row in rows if row["n"] is not None] if rows else None

        return await self._pool.call(work, timeout)

    async def callbacks(self, id_: UUID, client_id: str, kind: Kind, timeout: float) -> list[CallbackRecord] | None:
        """Callbacks of a job, oldest first; None if the client has no such job of this kind."""
        parameters = {"id": str(id_), "client_id": client_id, "kind": kind}

        def work(connection: sa.Connection) -> list[CallbackRecord] | None:
            rows = connection.execute(_CALLBACKS, parameters).mappings().all()
            return [CallbackRecord(**row) for row in rows if row["id"] is not None] if rows else None

        return await self._pool.call(work, timeout)

    async def report(self, id_: UUID, client_id: str, timeout: float) -> ReportRecord | None:
        """The client's report with this id; None if there is none."""
        parameters = {"id": str(id_), "client_id": client_id}
        found = await self._pool.call(lambda connection: _reports(connection.execute(_REPORT, parameters)), timeout)
        return found[0] if found else None

    async def reports(self, client_id: str, before: UUID | None, limit: int, timeout: float) -> list[ReportRecord]:
        """At most `limit` reports of the client, newest first, with ids below `before`."""
        parameters = {"client_id": client_id, "before": str(before or _BEHIND_ALL), "limit": limit}
        return await self._pool.call(lambda connection: _reports(connection.execute(_REPORTS, parameters)), timeout)

    async def backlog(self, client_id: str, most: int, timeout: float) -> int:
        """The number of a client's due jobs that wait, without those of paused providers; counts up to `most`."""
        parameters = {"client_id": client_id, "most": most}
        return await self._pool.call(lambda connection: int(connection.execute(_BACKLOG, parameters).scalar_one()), timeout)

    async def answers(self, timeout: float) -> None:
        """Return if Postgres answers."""
        await self._pool.call(lambda connection: connection.execute(sa.text("SELECT 1")).close(), timeout)


def _reports(rows: sa.CursorResult[Any]) -> list[ReportRecord]:
    return [ReportRecord(**{**row, "status": Status(row["status"])}) for row in rows.mappings()]
