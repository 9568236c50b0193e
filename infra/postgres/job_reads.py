"""Reads of jobs of every kind: statuses, attempts, callbacks, backlogs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus

_STATUSES = sa.text("SELECT id, version, status, kind, client_id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")


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


class JobReads:
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

    async def backlog(self, client_id: str, most: int, timeout: float) -> int:
        """The number of a client's due jobs that wait, without those of paused providers; counts up to `most`."""
        parameters = {"client_id": client_id, "most": most}
        return await self._pool.call(lambda connection: int(connection.execute(_BACKLOG, parameters).scalar_one()), timeout)

    async def answers(self, timeout: float) -> None:
        """Return if Postgres answers."""
        await self._pool.call(lambda connection: connection.execute(sa.text("SELECT 1")).close(), timeout)
