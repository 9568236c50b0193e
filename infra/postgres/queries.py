"""Reads for clients: the status of many jobs at once, and one message's record. In a lane apart from the hot path."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.lanes import Lane
from jobs.lifecycle import Status
from jobs.model import KnownStatus


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message as its owner may see it; instants by Postgres' clock."""

    id: UUID
    client_id: str
    status: Status
    version: int
    destination: str
    body: str
    provider: str
    priority: str
    reference: str | None
    tags: list[str]
    metadata: dict[str, Any] | None
    attempts: int
    reason: str | None
    provider_message_id: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


_STATUSES = sa.text("SELECT id, version, status, client_id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")

_MESSAGE = sa.text("""
SELECT id, client_id, status, version, destination, body, provider, priority, reference, tags, metadata, attempts, reason,
    provider_message_id, created_at, updated_at, finished_at, CASE WHEN status = 'retrying' THEN due_at END AS next_attempt_at
FROM jobs WHERE id = :id AND client_id = :client_id AND kind = 'message'
""")


class Queries:
    """Each method is one read; see `Lane.call` for what it raises."""

    def __init__(self, lane: Lane):
        self._lane = lane

    async def statuses(self, ids: Sequence[UUID], timeout: float) -> list[KnownStatus | None]:
        """The jobs with these ids, in their order; None where there is none."""
        at = time.monotonic()

        def work(connection: sa.Connection) -> dict[UUID, KnownStatus]:
            rows = connection.execute(_STATUSES, {"ids": [str(id_) for id_ in ids]})
            return {row.id: KnownStatus(row.id, row.version, Status(row.status), row.client_id, at) for row in rows}

        known = await self._lane.call(work, timeout)
        return [known.get(id_) for id_ in ids]

    async def message(self, id_: UUID, client_id: str, timeout: float) -> MessageRecord | None:
        """The client's own message with this id."""

        def work(connection: sa.Connection) -> MessageRecord | None:
            row = connection.execute(_MESSAGE, {"id": str(id_), "client_id": client_id}).mappings().one_or_none()
            return None if row is None else MessageRecord(**{**row, "status": Status(row["status"])})

        return await self._lane.call(work, timeout)

    async def answers(self, timeout: float) -> None:
        """Return if Postgres answers."""
        await self._lane.call(lambda connection: connection.execute(sa.text("SELECT 1")).close(), timeout)
