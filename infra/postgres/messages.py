"""Reads of messages: records by id, and lists of a client's messages, newest first.

Each filter has its own index, which ends in the id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Selects the messages that match every field which is not None."""

    status: Status | None = None
    destination: str | None = None
    tag: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message in a list, without its body."""

    id: UUID
    status: Status
    version: int
    destination: str
    provider: str
    priority: str
    reference: str | None
    tags: list[str]
    attempts: int
    reason: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


_COLUMNS = """j.id, j.status, j.version, j.destination, j.provider, j.priority, j.reference, j.tags, j.attempts, j.reason,
    j.created_at, j.updated_at, j.finished_at"""

# Constants: no value is ever part of a statement's text. A tag is searched first, because its rows are in order.
_CLAUSES = {
    # A subquery, because the planner takes the index of dead letters for a constant.
    "status": "AND j.status = (SELECT CAST(:status AS text))",
    "destination": "AND j.destination = :destination",
    "reference": "AND j.reference = :reference",
}
_PAGE = """
SELECT {columns} FROM jobs j
WHERE j.client_id = :client_id AND j.kind = 'message' AND j.id < CAST(:before AS uuid) {clauses}
ORDER BY j.id DESC LIMIT :limit
"""
_TAGGED = """
SELECT {columns} FROM message_tags t JOIN jobs j ON j.id = t.job_id
WHERE t.client_id = :client_id AND t.tag = :tag AND t.job_id < CAST(:before AS uuid)
    AND j.client_id = :client_id AND j.kind = 'message' {clauses}
ORDER BY t.job_id DESC LIMIT :limit
"""
_BEHIND_ALL = UUID(int=2**128 - 1)


def page_statement(filter_: MessageFilter) -> str:
    """The statement of a page."""
    clauses = " ".join(clause for name, clause in _CLAUSES.items() if getattr(filter_, name) is not None)
    return (_PAGE if filter_.tag is None else _TAGGED).format(columns=_COLUMNS, clauses=clauses)


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


_MESSAGES = sa.text("""
SELECT id, client_id, status, version, destination, body, provider, priority, delivery, reference, tags, metadata,
    callback_url, attempts, reason, provider_message_id, created_at, updated_at, finished_at,
    CASE WHEN status = 'retrying' THEN due_at END AS next_attempt_at
FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND kind = 'message'
""")


class Messages:
    """Each method is one read; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def records(self, ids: Sequence[UUID], timeout: float) -> list[MessageRecord | None]:
        """The messages with these ids, in order and of any client; None for an unknown id."""

        def work(connection: sa.Connection) -> dict[UUID, MessageRecord]:
            rows = connection.execute(_MESSAGES, {"ids": [str(id_) for id_ in ids]}).mappings()
            return {row["id"]: MessageRecord(**{**row, "status": Status(row["status"])}) for row in rows}

        records = await self._pool.call(work, timeout)
        return [records.get(id_) for id_ in ids]

    async def page(
        self, client_id: str, filter_: MessageFilter, before: UUID | None, limit: int, timeout: float
    ) -> list[MessageRow]:
        """At most `limit` matching messages of the client, newest first, with ids below `before`."""
        values = {name: getattr(filter_, name) for name in (*_CLAUSES, "tag") if getattr(filter_, name) is not None}
        parameters = {**values, "client_id": client_id, "before": str(before or _BEHIND_ALL), "limit": limit}
        statement = sa.text(page_statement(filter_))
        return await self._pool.call(lambda c: [_row(row) for row in c.execute(statement, parameters).mappings()], timeout)


def _row(row: Any) -> MessageRow:
    return MessageRow(**{**row, "status": Status(row["status"])})
