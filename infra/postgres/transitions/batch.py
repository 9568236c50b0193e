"""What the transitions share: a batch as JSON, and the repetition of a statement whose answer was lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import orjson
import sqlalchemy as sa

from jobs.lifecycle import Status
from jobs.model import Kind

Row = TypeVar("Row")
Key = tuple[UUID, UUID]  # of a job and a claim token


@dataclass(frozen=True, slots=True)
class Applied:
    """A committed transition. `publish`: whether its message, with `headers`, is to be published.

    `callback`: the callback job, at version 1, that the transition made.
    """

    id: UUID
    version: int
    status: Status
    kind: Kind
    client_id: str
    publish: bool
    headers: dict[str, str | int] | None
    callback: UUID | None = None


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    return orjson.dumps(rows).decode()


def execute_or_read_back(
    connection: sa.Connection,
    statement: sa.TextClause,
    read_back: sa.TextClause,
    rows: list[dict[str, Any]],
    to_result: Callable[[Any], tuple[Key, Row]],
) -> dict[Key, Row]:
    """Execute the statement. Look for the rows that it did not match among what an earlier, unanswered try committed."""
    done = dict(map(to_result, connection.execute(statement, {"rows": to_json(rows)})))
    missing = [row for row in rows if (UUID(row["id"]), UUID(row["token"])) not in done]
    if missing:
        done |= dict(map(to_result, connection.execute(read_back, {"rows": to_json(missing)})))
    return done


def applied(row: Any, tokens: Mapping[UUID, UUID]) -> tuple[Key, Applied]:
    """Map a row of `apply` or `late`. `tokens`: the claim token of each job in the batch."""
    status, kind = Status(row.status), Kind(row.kind)
    result = Applied(row.id, row.version, status, kind, row.client_id, row.publish, row.headers, row.callback)
    return (row.id, tokens[row.id]), result
