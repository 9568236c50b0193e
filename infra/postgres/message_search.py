"""Search in messages for people: any filter, newest first, at a bounded cost.

Candidates come from one index, that of the narrowest filter, in the order of their ids. Other filters are checked on a
bounded number of candidates; a page that is not full by then says where the next search continues. The indexes begin with
the client. So a search over all clients asks the index once for each client and merges, unless it only narrows a status.

A UUIDv7 begins with the milliseconds of its acceptance, so a period is a range of ids.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.keys import OPEN_CLIENT
from infra.postgres.job_reads import BEHIND_ALL, MessageRow
from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status

SCAN = 2000  # candidates
MERGED_SCAN = 500  # candidates of each client
COUNT_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Selects the messages that match every field which is set. `client_id` None: of every client."""

    client_id: str | None = None
    status: Status | None = None
    destination: str | None = None
    tag: str | None = None
    reference: str | None = None
    provider: str | None = None
    accepted_after: datetime | None = None
    accepted_before: datetime | None = None


class FoundMessage(MessageRow):
    """A message in the results, with its client."""

    client_id: str


@dataclass(frozen=True, slots=True)
class FoundPage:
    """A page of results. `next_before` begins the next page; None: there is none.

    `searched`: the number of candidates after which the search stopped, before the page was full.
    """

    messages: list[FoundMessage]
    next_before: UUID | None = None
    searched: int | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """A number of matches. `is_exact` False: there are more."""

    number: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Position:
    """A message's client, and the number and the beginning of its revision: the acceptance or the last requeue."""

    client_id: str
    version: int
    revision: int
    queued_at: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True)
class _Index:
    """An index: its filter, the id in it, the tables, and the condition that it serves."""

    name: str | None
    id: str
    tables: str
    condition: str


# Constants: no value is ever part of a statement's text. The first index whose filter is set serves the candidates.
_JOBS = "jobs j WHERE j.client_id = {client} AND j.kind = 'message'"
_INDEXES = (
    _Index("tag", "t.job_id", "message_tags t WHERE t.client_id = {client}", "t.tag = :tag"),
    _Index("reference", "j.id", _JOBS, "j.reference = :reference"),
    _Index("destination", "j.id", _JOBS, "j.destination = :destination"),
    # A subquery, because the planner takes the index of dead letters for a constant.
    _Index("status", "j.id", _JOBS, "j.status = (SELECT CAST(:status AS text))"),
    _Index(None, "j.id", _JOBS, "true"),
)
_ALL_JOBS = _Index(None, "j.id", "jobs j WHERE true", "true")
_RESIDUAL = {
    "status": "j.status = :status",
    "destination": "j.destination = :destination",
    "reference": "j.reference = :reference",
    "provider": "j.provider = :provider",
}
_IDS = """SELECT {index.id} AS id FROM {tables} AND {index.condition}
        AND {index.id} < CAST(:before AS uuid) AND {index.id} >= CAST(:since AS uuid)
    ORDER BY {index.id} DESC LIMIT :scan"""
# Jobs that were accepted without a key have the client `default`, which may be in no row of `clients`.
_OF_EACH_CLIENT = f"""SELECT merged.id FROM (SELECT id FROM clients UNION SELECT '{OPEN_CLIENT}') c
    CROSS JOIN LATERAL ({{ids}}) merged"""  # noqa: S608  a constant
_MERGED = f"{_OF_EACH_CLIENT} ORDER BY merged.id DESC LIMIT :scan"

_COLUMNS = ", ".join(f"j.{name}" for name in FoundMessage.__annotations__)
_PAGE = """
SELECT {columns} FROM ({candidates}) found JOIN jobs j ON j.id = found.id
WHERE j.kind = 'message' {residual} ORDER BY found.id DESC LIMIT :limit
"""
_LAST_CANDIDATE = "SELECT found.id FROM ({candidates}) found ORDER BY found.id DESC OFFSET :scan - 1"
_COUNT = "SELECT count(*) AS read, count(*) AS matches FROM ({unordered} LIMIT :scan) found"
_COUNT_ALL = """
SELECT count(*) AS read, count(*) FILTER (WHERE kind = 'message') AS matches FROM (
    SELECT j.kind FROM jobs j WHERE j.id < CAST(:before AS uuid) AND j.id >= CAST(:since AS uuid) ORDER BY j.id DESC LIMIT :scan
) newest
"""
_POSITION = sa.text("""
SELECT client_id, version, revision, queued_at, due_at FROM jobs WHERE id = CAST(:id AS uuid) AND kind = 'message'
""")

_ANSWERS = sa.text("SELECT revision, n, answer FROM attempts WHERE job_id = CAST(:id AS uuid) AND answer IS NOT NULL")


class MessageSearch:
    """Each method is one or two reads; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def page(self, filter_: MessageFilter, before: UUID, limit: int, timeout: float) -> FoundPage:
        """At most `limit` matching messages with ids below `before`, newest first."""
        statements, parameters = _statements(filter_)
        scan = statements.scan or limit + 1
        bounds = {"before": min(before, parameters["before"]), "scan": scan, "limit": limit + 1}
        parameters = {**parameters, **bounds}
        rows: list[Any] = [dict(row) for row in await self._pool.fetch(statements.page, timeout, **parameters)]
        if len(rows) > limit:
            return FoundPage(rows[:limit], rows[limit - 1]["id"])
        if statements.scan is None:
            return FoundPage(rows)
        last = await self._pool.fetch(statements.last_candidate, timeout, **parameters)
        return FoundPage(rows, last[0]["id"], scan) if last else FoundPage(rows)

    async def count(self, filter_: MessageFilter, timeout: float) -> Count | None:
        """Count up to `COUNT_LIMIT` entries of the index; None: the index does not have every filter."""
        statements, parameters = _statements(filter_)
        if statements.count is None:
            return None
        (row,) = await self._pool.fetch(statements.count, timeout, **parameters, scan=COUNT_LIMIT)
        return Count(row["matches"], row["read"] < COUNT_LIMIT)

    async def answers(self, id_: UUID, timeout: float) -> dict[tuple[int, int], str]:
        """The excerpts of the provider's answers, by revision and number of the attempt."""
        rows = await self._pool.fetch(_ANSWERS, timeout, id=id_)
        return {(row["revision"], row["n"]): row["answer"] for row in rows}

    async def position(self, id_: UUID, timeout: float) -> Position | None:
        """Where a message is in its life; None: there is none with this id."""
        rows = await self._pool.fetch(_POSITION, timeout, id=id_)
        return Position(**rows[0]) if rows else None


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements of one set of filters. `scan`: the number of candidates; None: every candidate matches."""

    scan: int | None
    page: sa.TextClause
    last_candidate: sa.TextClause
    count: sa.TextClause | None


def statements_of(names: frozenset[str]) -> Statements:
    """The statements for these filters."""
    index, of_one_client = _index_for(names), "client_id" in names
    residual = " ".join(f"AND {each}" for name, each in _RESIDUAL.items() if name in names and name != index.name)
    ids = _IDS.format(index=index, tables=index.tables.format(client=":client_id" if of_one_client else "c.id"))
    is_merged = not of_one_client and index is not _ALL_JOBS
    parts = {"candidates": _MERGED.format(ids=ids) if is_merged else ids, "residual": residual, "columns": _COLUMNS}
    page, last_candidate = (sa.text(each.format(**parts)) for each in (_PAGE, _LAST_CANDIDATE))
    if index is _ALL_JOBS:
        return Statements(SCAN, page, last_candidate, None if residual else sa.text(_COUNT_ALL))
    if residual:
        return Statements(MERGED_SCAN if is_merged else SCAN, page, last_candidate, None)
    unordered = _OF_EACH_CLIENT.format(ids=ids) if is_merged else f"SELECT * FROM ({ids}) one"  # noqa: S608  constants
    return Statements(None, page, last_candidate, sa.text(_COUNT.format(unordered=unordered)))


def _index_for(names: frozenset[str]) -> _Index:
    """The index of the candidates. Over all clients, a status with another filter has none: `sent` is too frequent."""
    index = next(each for each in _INDEXES if each.name is None or each.name in names)
    is_wide = index.name is None or (index.name == "status" and "provider" in names)
    return _ALL_JOBS if is_wide and "client_id" not in names else index


def _statements(filter_: MessageFilter) -> tuple[Statements, dict[str, Any]]:
    """The statements of a filter, and their parameters."""
    values: Mapping[str, Any] = {name: value for name, value in asdict(filter_).items() if value is not None}
    bounds = {"before": _first_id(filter_.accepted_before, BEHIND_ALL), "since": _first_id(filter_.accepted_after, UUID(int=0))}
    columns = {name: value for name, value in values.items() if not name.startswith("accepted_")}
    return statements_of(frozenset(columns)), {**columns, **bounds}


def _first_id(at: datetime | None, otherwise: UUID) -> UUID:
    """The smallest UUIDv7 of an instant."""
    if at is None:
        return otherwise
    milliseconds = min(max(0, int(at.timestamp() * 1000)), 2**48 - 1)
    return UUID(int=milliseconds << 80)
