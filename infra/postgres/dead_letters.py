"""Dead letters: `failed` and `unknown` jobs, listed by filter, requeued or discarded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.sql import CALLBACK_COLUMNS, callbacks_of, in_list, queue_name, to_json
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
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Requeueable:
    """Selects letters within the deadline of a configured queue. `negated`: selects all others.

    `deadlines`: in seconds, by the logical name of each queue. `provider`: the target of messages; None keeps each one's own.
    """

    deadlines: Mapping[str, float]
    provider: str | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class LetterFields:
    """The fields of a dead letter that its client reads, without the body. `last_reason`, `provider_code`: of the last attempt.

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


@dataclass(frozen=True, slots=True)
class DeadLetter(LetterFields):
    """A dead letter and its client."""

    client_id: str

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


# The clauses of the fields that are no column's name. Constants: no value is ever part of a statement's text.
_CLAUSES = {
    "tag": ":tag = ANY(j.tags)",
    "failed_after": "j.finished_at >= :failed_after",
    "failed_before": "j.finished_at < :failed_before",
    "ids": "j.id IN :ids",
}


# The deadline of the target queue, by its logical name (`WorkQueue.name`); null if it is not configured.
_TO_PROVIDER = "CASE WHEN j.kind = 'message' THEN coalesce(CAST(:to_provider AS text), j.provider) END"
_DEADLINE = f"CAST(CAST(:deadlines AS json) ->> ({queue_name('j.kind', _TO_PROVIDER, 'j.priority')}) AS float8)"
_IN_TIME = f"coalesce(extract(epoch FROM now() - j.queued_at) <= {_DEADLINE}, false)"


def _where(filter_: Filter, only: Requeueable | None = None) -> tuple[str, dict[str, Any]]:
    """The condition of a filter, and its parameters."""
    values = {name: value for name, value in asdict(filter_).items() if value not in (None, ())}
    clauses = [_CLAUSES.get(name, f"j.{name} = :{name}") for name in values]
    if only is not None:
        clauses.append(f"NOT {_IN_TIME}" if only.negated else _IN_TIME)
        values |= {"deadlines": to_json(dict(only.deadlines)), "to_provider": only.provider}
    return " AND ".join([f"j.status IN ({DEAD})", *clauses]), values


_COUNT = sa.text(f"SELECT count(*) FROM jobs WHERE status IN ({DEAD}) AND kind = :kind")  # noqa: S608  a constant

_GROUPS = """
SELECT j.kind, j.provider, j.status, j.reason, count(*) AS count, min(j.finished_at) AS oldest, max(j.finished_at) AS newest
FROM (SELECT j.kind, j.provider, j.status, j.reason, j.finished_at FROM jobs j WHERE {where} LIMIT :most) j
GROUP BY j.kind, j.provider, j.status, j.reason ORDER BY count(*) DESC, j.kind, j.provider, j.reason
"""

_LETTERS = """
SELECT j.id, j.client_id, j.version, j.status, j.kind, j.provider, j.priority, j.destination, j.reference, j.tags, j.reason,
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
    where, parameters = _where(filter_, only)
    return sa.text(_PAGE.format(where=where)), {**parameters, "after": after, "limit": limit}


_STALE = sa.text("""
SELECT r.id, r.version FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int)
LEFT JOIN jobs j ON j.id = r.id WHERE j.id IS NULL OR j.version > r.version
""")

# An unpublished message of the dead letter is deleted.
REQUEUE = sa.text(f"""
WITH held AS (
    SELECT j.id, r.version, r.provider, r.queue, j.status = 'failed' AS new_key
    FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, provider text, queue text)
    JOIN jobs j ON j.id = r.id AND j.version = r.version
    WHERE j.status IN ({DEAD}) ORDER BY j.id FOR UPDATE OF j
), requeued AS (
    UPDATE jobs j SET
        status = 'queued', version = j.version + 1, revision = j.revision + 1, provider = held.provider,
        key_revision = CASE WHEN new_key THEN j.revision + 1 ELSE j.key_revision END,
        attempts = 0, tries = 0, lost_leases = 0, reason = NULL, finished_at = NULL,
        queued_at = clock_timestamp(), due_at = clock_timestamp(), updated_at = clock_timestamp()
    FROM held WHERE j.id = held.id AND j.version = held.version
    RETURNING j.id, j.version, held.queue, j.traceparent
), unneeded AS (
    DELETE FROM outbox o USING requeued WHERE o.job_id = requeued.id AND o.version < requeued.version
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, traceparent)
    SELECT id, version, 'work', queue, now(), traceparent FROM requeued
)
SELECT id FROM requeued
""")  # noqa: S608  the interpolated part is a constant

DISCARD = sa.text(f"""
WITH held AS (
    SELECT j.id, r.version FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int)
    JOIN jobs j ON j.id = r.id AND j.version = r.version
    WHERE j.status IN ({in_list(sources(Cause.DISCARD))}) ORDER BY j.id FOR UPDATE OF j
), discarded AS (
    UPDATE jobs j SET status = 'discarded', version = j.version + 1, updated_at = clock_timestamp(),
        finished_at = clock_timestamp()
    FROM held WHERE j.id = held.id AND j.version = held.version
    RETURNING {CALLBACK_COLUMNS}, 0 AS grace
), unneeded AS (
    DELETE FROM outbox o USING discarded WHERE o.job_id = discarded.id AND o.version < discarded.version
), {callbacks_of("discarded")}
SELECT id FROM discarded
""")  # noqa: S608  the interpolated parts are constants

BEFORE_ALL = UUID(int=0)


class DeadLetterStore:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def now(self, timeout: float) -> datetime:
        """Postgres' clock, to which `failed_before` refers."""
        now: datetime = await self._pool.value(sa.text("SELECT clock_timestamp()"), timeout)
        return now

    async def count(self, kind: Kind, timeout: float) -> int:
        """The number of dead letters of a kind."""
        return int(await self._pool.value(_COUNT, timeout, kind=kind))

    async def groups(
        self, filter_: Filter, timeout: float, only: Requeueable | None = None, *, most: int | None = None
    ) -> list[Group]:
        """Group the matching letters, the largest group first. `most`: group this number of them; None: all."""
        where, parameters = _where(filter_, only)
        rows = await self._pool.fetch(sa.text(_GROUPS.format(where=where)), timeout, **parameters, most=most)
        return [Group(**{**row, "kind": Kind(row["kind"]), "status": Status(row["status"])}) for row in rows]

    async def page(
        self, filter_: Filter, after: UUID, limit: int, timeout: float, only: Requeueable | None = None
    ) -> list[DeadLetter]:
        """At most `limit` matching letters, by id after `after`."""
        statement, parameters = page_statement(filter_, after, limit, only)
        return list(map(_letter, await self._pool.fetch(statement, timeout, **parameters)))

    async def newest(self, filter_: Filter, limit: int, timeout: float) -> list[DeadLetter]:
        """At most `limit` matching letters, the newest failure first."""
        where, parameters = _where(filter_)
        rows = await self._pool.fetch(sa.text(_NEWEST.format(where=where)), timeout, **parameters, limit=limit)
        return list(map(_letter, rows))

    async def requeue(self, letters: Sequence[tuple[DeadLetter, WorkQueue]], timeout: float) -> set[UUID]:
        """Queue each letter for its work queue; returns the ids. A letter that has moved on since it was read is left."""
        rows = [
            {"id": letter.id, "version": letter.version, "provider": queue.provider, "queue": queue.name}
            for letter, queue in letters
        ]
        return {row["id"] for row in await self._pool.fetch(REQUEUE, timeout, rows=to_json(rows))}

    async def discard(self, letters: Sequence[DeadLetter], timeout: float) -> set[UUID]:
        """Discard the letters; returns the ids. A letter that has moved on since it was read is left."""
        rows = to_json([letter.pointer for letter in letters])
        return {row["id"] for row in await self._pool.fetch(DISCARD, timeout, rows=rows)}

    async def stale(self, copies: Sequence[Pointer], timeout: float) -> set[Pointer]:
        """The messages of a dead queue whose job has moved on or is deleted."""
        return {Pointer(**row) for row in await self._pool.fetch(_STALE, timeout, rows=to_json(copies))}


def _letter(row: sa.RowMapping) -> DeadLetter:
    typed = {"status": Status(row["status"]), "kind": Kind(row["kind"]), "priority": Priority(row["priority"])}
    return DeadLetter(**{**row, **typed})
