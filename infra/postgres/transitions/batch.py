"""What the transitions share: a batch as JSON, and the repetition of a statement whose answer was lost."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import orjson
import sqlalchemy as sa

from jobs.lifecycle import Status

Result = TypeVar("Result")


def in_list(statuses: frozenset[Status]) -> str:
    """Statuses as the list of an SQL IN."""
    return ", ".join(f"'{status}'" for status in sorted(statuses))


def to_json(value: Any) -> str:
    """Dictionaries, dataclasses and lists of them as JSON, for `json_to_recordset`."""
    return orjson.dumps(value).decode()


def execute_or_read_back(
    connection: sa.Connection,
    statements: tuple[sa.TextClause, sa.TextClause],
    claims: Sequence[tuple[UUID, UUID]],
    rows: Sequence[Any],
    to_result: Callable[[Any], Result],
    **parameters: object,
) -> list[Result | None]:
    """The results of the rows, in order; None: stale. `claims`: the job and the token of each row.

    The second statement looks for rows that the first did not match among what an earlier, unanswered try committed.
    """
    done: dict[tuple[UUID, UUID], Result] = {}
    for statement in statements:
        missing = [row for claim, row in zip(claims, rows, strict=True) if claim not in done]
        if missing:
            found = connection.execute(statement, {"rows": to_json(missing), **parameters}).mappings()
            done |= {(row["id"], row["token"]): to_result(row) for row in found}
    return [done.get(claim) for claim in claims]
