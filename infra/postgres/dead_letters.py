"""Dead letters: `failed` and `unknown` jobs, listed by filter, requeued or discarded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.callbacks import in_list
from infra.postgres.transitions.discard import discard
from infra.postgres.transitions.requeue import requeue
from jobs.lifecycle import Cause, Status, sources
from jobs.model import Kind, Priority, WorkQueue
from jobs.wire import Pointer

DEAD = in_list(sources(Cause.REQUEUE))


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects the dead letters that match every field which is set. Instants are by Postgres' clock."""

    kind: Kind | None = None
    status: Status | None = None
    provider: str | None = None
    reason: str | None = None
    destination: str | None = None
    tag: str | None = None
    reference: str | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None
    ids: tuple[UUID, ...] = ()
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Requeueable:
    """Selects letters within the deadline of a configured queue. `negated`: selects all others.

    `deadlines`: in seconds, by the logical name of each queue. `provider`: the target of messages; None keeps each one's own.
    """

    deadlines: Mapping[str, float]
    provider: str | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, without its body. `last_reason`, `provider_code`: of the last attempt.

    `age_seconds`: since the job was accepted or requeued.
    """

    id: UUID
    version: int
    status: Status
    kind: Kind
    provider: str | None
    priority: Priority
    destination: str | None
    reference: str | None
    tags: list[str]
    reason: str | None
    last_reason: str | None
    provider_code: int | None
    attempts: int
    revision: int
    created_at: datetime
    failed_at: datetime
    age_seconds: float

    @property
    def pointer(self) -> Pointer:
        return Pointer(self.id, self.version)

    @property
    def queue(self) -> WorkQueue:
        return WorkQueue(self.kind, self.provider, self.priority)


@dataclass(frozen=True, slots=True)
class Group:
    """The number of dead letters with equal kind, provider, status and reason; the oldest and the newest."""

    kind: Kind
    provider: str | None
    status: Status
    reason: str | None
    count: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True)
class _Where:
    """The clauses of a filter, and their parameters."""

    clauses: list[str] = field(default_factory=lambda: [f"j.status IN ({DEAD})"])
    parameters: dict[str, Any] = field(default_factory=dict)


# The clause of each field. Constants: no value is ever part of a statement's text.
_CLAUSES = {
    "kind": "j.kind = :kind",
    "status": "j.status = :status",
    "provider": "j.provider = :provider",
    "reason": "j.reason = :reason",
    "destination": "j.destination = :destination",
    "tag": ":tag = ANY(j.tags)",
    "reference": "j.reference = :reference",
    "failed_after": "j.finished_at >= :failed_after",
    "failed_before": "j.finished_at < :failed_before",
    "ids": "j.id = ANY(CAST(:ids AS uuid[]))",
    "client_id": "j.client_id = :client_id",
}


def _where(filter_: Filter) -> _Where:
    where = _Where()
    for name, clause in _CLAUSES.items():
        value = getattr(filter_, name)
        if value is not None and value != ():
            where.clauses.append(clause)
            where.parameters[name] = [str(id_) for id_ in value] if name == "ids" else value
    return where


# The deadline of the target queue, by its logical name (`WorkQueue.name`); null if it is not configured.
_DEADLINE = """CAST(CAST(:deadlines AS json) ->> CASE
    WHEN j.kind = 'message' THEN 'messages.' || coalesce(CAST(:to_provider AS text), j.provider) || '.' || j.priority
    ELSE j.kind || 's' END AS float8)"""
_IN_TIME = f"coalesce(extract(epoch FROM now() - j.queued_at) <= {_DEADLINE}, false)"


_COUNT = sa.text(f"SELECT count(*) FROM jobs WHERE status IN ({DEAD}) AND kind = :kind")  # noqa: S608  a constant

_GROUPS = """
SELECT j.kind, j.provider, j.status, j.reason, count(*) AS count, min(j.finished_at) AS oldest, max(j.finished_at) AS newest
FROM jobs j WHERE {where} GROUP BY j.kind, j.provider, j.status, j.reason ORDER BY count(*) DESC, j.kind, j.provider, j.reason
"""

_LETTERS = """
SELECT j.id, j.version, j.status, j.kind, j.provider, j.priority, j.destination, j.reference, j.tags, j.reason,
    last.reason AS last_reason, last.provider_code, j.attempts, j.revision, j.created_at, j.finished_at AS failed_at,
    CAST(extract(epoch FROM now() - j.queued_at) AS float8) AS age_seconds
FROM {jobs} j LEFT JOIN LATERAL (
    SELECT a.reason, a.provider_code FROM attempts a WHERE a.job_id = j.id ORDER BY a.revision DESC, a.n DESC LIMIT 1
) last ON true
"""
_PAGE = _LETTERS.replace("{jobs}", "jobs") + "WHERE {where} AND j.id > CAST(:after AS uuid) ORDER BY j.id LIMIT :limit"
_NEWEST_JOBS = "(SELECT * FROM jobs j WHERE {where} ORDER BY j.finished_at DESC, j.id DESC LIMIT :limit)"
_NEWEST = _LETTERS.replace("{jobs}", _NEWEST_JOBS) + "ORDER BY j.finished_at DESC, j.id DESC"


def page_statement(filter_: Filter, after: UUID, limit: int, only: Requeueable | None) -> tuple[sa.TextClause, dict[str, Any]]:
    """The statement of a page, and its parameters."""
    where = _where(filter_)
    if only is not None:
        where.clauses.append(f"NOT {_IN_TIME}" if only.negated else _IN_TIME)
        where.parameters.update(deadlines=orjson.dumps(dict(only.deadlines)).decode(), to_provider=only.provider)
    parameters = {**where.parameters, "after": str(after), "limit": limit}
    return sa.text(_PAGE.format(where=" AND ".join(where.clauses))), parameters


_STALE = sa.text("""
SELECT r.id, r.version FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int)
LEFT JOIN jobs j ON j.id = r.id WHERE j.id IS NULL OR j.version > r.version
""")

BEFORE_ALL = UUID(int=0)


class DeadLetterStore:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def now(self, timeout: float) -> datetime:
        """Postgres' clock, to which `failed_before` refers."""
        return await self._pool.call(lambda c: c.execute(sa.text("SELECT clock_timestamp()")).scalar_one(), timeout)

    async def count(self, kind: Kind, timeout: float) -> int:
        """The number of dead letters of a kind."""
        return await self._pool.call(lambda c: int(c.execute(_COUNT, {"kind": kind}).scalar_one()), timeout)

    async def groups(self, filter_: Filter, timeout: float) -> list[Group]:
        """Group the matching letters, the largest group first."""
        where = _where(filter_)
        statement = sa.text(_GROUPS.format(where=" AND ".join(where.clauses)))

        def work(connection: sa.Connection) -> list[Group]:
            rows = connection.execute(statement, where.parameters).mappings()
            return [Group(**{**row, "kind": Kind(row["kind"]), "status": Status(row["status"])}) for row in rows]

        return await self._pool.call(work, timeout)

    async def page(
        self, filter_: Filter, after: UUID, limit: int, timeout: float, only: Requeueable | None = None
    ) -> list[DeadLetter]:
        """At most `limit` matching letters, by id after `after`."""
        statement, parameters = page_statement(filter_, after, limit, only)
        return await self._pool.call(lambda c: [_letter(row) for row in c.execute(statement, parameters).mappings()], timeout)

    async def newest(self, filter_: Filter, limit: int, timeout: float) -> list[DeadLetter]:
        """At most `limit` matching letters, the newest failure first."""
        where = _where(filter_)
        statement, parameters = sa.text(_NEWEST.format(where=" AND ".join(where.clauses))), {**where.parameters, "limit": limit}
        return await self._pool.call(lambda c: [_letter(row) for row in c.execute(statement, parameters).mappings()], timeout)

    async def requeue(self, letters: Sequence[tuple[DeadLetter, WorkQueue]], timeout: float) -> set[UUID]:
        """See `transitions.requeue`."""
        bound = [(letter.pointer, queue) for letter, queue in letters]
        return await self._pool.call(lambda connection: requeue(connection, bound), timeout)

    async def discard(self, letters: Sequence[DeadLetter], timeout: float) -> set[UUID]:
        """See `transitions.discard`."""
        pointers = [each.pointer for each in letters]
        return await self._pool.call(lambda connection: discard(connection, pointers), timeout)

    async def stale(self, copies: Sequence[Pointer], timeout: float) -> set[Pointer]:
        """The messages of a dead queue whose job has moved on or is deleted."""
        rows = orjson.dumps([{"id": str(copy.id), "version": copy.version} for copy in copies]).decode()
        return await self._pool.call(
            lambda c: {Pointer(row.id, row.version) for row in c.execute(_STALE, {"rows": rows})}, timeout
        )


def _letter(row: Any) -> DeadLetter:
    typed = {"status": Status(row["status"]), "kind": Kind(row["kind"]), "priority": Priority(row["priority"])}
    return DeadLetter(**{**row, **typed})
