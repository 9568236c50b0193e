"""The outbox: messages to publish. A row is deleted once the broker has confirmed its message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.prepared import PreparedStatement
from infra.postgres.transitions.sql import to_json
from jobs.model import Route
from jobs.wire import Pointer

# The due_at of a taken row moves by this: a killed relay delays its rows by as much, and two relays rarely take the same row.
TAKEN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Due:
    """A due row: the message, its logical queue and its route."""

    pointer: Pointer
    route: Route
    queue: str
    headers: dict[str, str | int] | None
    traceparent: str | None = None


_HELD = """
WITH r AS (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int)
), held AS (
    SELECT o.job_id, o.version FROM outbox o JOIN r ON r.id = o.job_id AND r.version = o.version
    ORDER BY o.job_id, o.version FOR UPDATE OF o
)
"""
_DELETE = PreparedStatement(f"""{_HELD}
DELETE FROM outbox o USING held WHERE o.job_id = held.job_id AND o.version = held.version
""")  # noqa: S608  a constant

_RELEASE = sa.text(f"""{_HELD}
UPDATE outbox o SET due_at = clock_timestamp() FROM held WHERE o.job_id = held.job_id AND o.version = held.version
""")  # noqa: S608

# now(), not clock_timestamp(): an index serves only what is stable within the statement.
_TAKE = sa.text("""
WITH due AS (
    SELECT job_id, version FROM outbox WHERE queue = :queue AND due_at <= now()
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE outbox o SET due_at = clock_timestamp() + :taken * interval '1 second'
FROM due WHERE o.job_id = due.job_id AND o.version = due.version
RETURNING o.job_id AS id, o.version, o.route, o.headers, o.traceparent
""")

# A loose index scan: one probe of the index (queue, due_at) for each queue that has rows, however many rows there are.
_QUEUES = sa.text("""
WITH RECURSIVE q(queue) AS (
    (SELECT queue FROM outbox ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT o.queue FROM outbox o WHERE o.queue > q.queue ORDER BY o.queue LIMIT 1) FROM q WHERE q.queue IS NOT NULL
)
SELECT queue FROM q WHERE queue IS NOT NULL
    AND (SELECT true FROM outbox o WHERE o.queue = q.queue AND o.due_at <= now() ORDER BY o.due_at LIMIT 1)
""")


class Outbox:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def delete(self, published: Sequence[Pointer], timeout: float) -> list[None]:
        """Delete rows whose messages the broker has confirmed."""
        rows = to_json(published)
        await self._pool.call(lambda connection: _DELETE.execute(connection, rows=rows).rowcount, timeout)
        return [None] * len(published)

    async def release(self, unpublished: Sequence[Pointer], timeout: float) -> None:
        """Make taken rows due again whose messages could not be published."""
        await self._pool.execute(_RELEASE, timeout, rows=to_json(unpublished))

    async def queues_due(self, timeout: float) -> list[str]:
        """The logical queues with due rows, by name."""
        return [row["queue"] for row in await self._pool.fetch(_QUEUES, timeout)]

    async def take(self, queue: str, limit: int, timeout: float) -> list[Due]:
        """Take at most `limit` due rows of a queue, oldest first. They are not due again for `TAKEN_SECONDS`."""
        rows = await self._pool.fetch(_TAKE, timeout, queue=queue, limit=limit, taken=TAKEN_SECONDS)
        return [_due(queue, **row) for row in rows]


def _due(queue: str, id: UUID, version: int, route: str, **fields: Any) -> Due:
    return Due(Pointer(id, version), Route(route), queue, **fields)
