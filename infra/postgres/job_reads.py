"""Reads of jobs: statuses, records, lists, attempts, callbacks, backlogs.

Each TypedDict is a row as Postgres returns it: enums are their strings, instants are by Postgres' clock.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired
from uuid import UUID

import sqlalchemy as sa
from typing_extensions import TypedDict

from infra.postgres.pool import DatabasePool
from jobs.lifecycle import Status
from jobs.model import Delivery, Kind, KnownStatus, Priority

JobKey = tuple[UUID, str]  # a job's id and its client


class JobRow(TypedDict):
    """The fields of every kind of job."""

    id: UUID
    status: Status
    version: int
    attempts: int
    reason: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class MessageRow(JobRow):
    """A message in a list, without its body."""

    destination: str
    provider: str
    priority: Priority
    reference: str | None
    tags: list[str]


class MessageRecord(MessageRow):
    """A message as its client sees it."""

    body: str | None
    delivery: Delivery
    metadata: dict[str, Any] | None
    callback_url: str | None
    provider_message_id: str | None
    next_attempt_at: datetime | None


class Progress(TypedDict):
    """The number of counted posts, and the approximate total. Both are equal once the report is completed.

    The further figures are None for reports of earlier releases. `posts_per_second` and `seconds_left` are measured since the
    last claim; None before its first partition. `snapshot_at`: RFC 3339 with milliseconds.
    """

    posts: int
    of_about: int | None
    partitions: int | None
    of_partitions: int | None
    posts_per_second: int | None
    seconds_left: float | None
    snapshot_at: str | None
    restarts: int | None


Parameters = TypedDict(
    "Parameters",
    {
        "from": NotRequired[str],
        "to": NotRequired[str],
        "user_ids": NotRequired[list[int]],
        "order": NotRequired[Literal["words"]],
        "limit": NotRequired[int],
        "histogram": NotRequired[Literal["words"]],
    },
)
Parameters.__doc__ = "The parameters of a report, without those that have their default."


class ResultSummary(TypedDict):
    """The numbers of counted posts, users and words, whatever the `limit`. `snapshot_at`: RFC 3339 with milliseconds."""

    posts: int
    users: int
    words: int
    snapshot_at: str


class ReportRecord(JobRow):
    """A report as its client sees it. `last_reason`: of the last attempt; `reason`: of the job.

    `summary`: None without a result, and for results of releases before revision 0019.
    """

    last_reason: str | None
    callback_url: str | None
    next_attempt_at: datetime | None
    progress: Progress | None
    summary: ResultSummary | None
    parameters: Parameters


class Attempt(TypedDict):
    """One ended attempt: `revision` counts requeues, `n` attempts within one; `charged`: it counts against the limit."""

    revision: int
    n: int
    outcome: str
    reason: str | None
    charged: bool
    provider_code: int | None
    ran_seconds: float | None
    ended_at: datetime


class Callback(TypedDict):
    """One callback of a job. `id`: its `webhook-id`; `sequence`: the version of the job that it reports."""

    id: UUID
    type: str
    sequence: int
    url: str
    status: Status
    attempts: int
    reason: str | None
    created_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


def _columns(alias: str, row: type) -> str:
    return ", ".join(f"{alias}.{name}" for name in row.__annotations__)


_DUE = "CASE WHEN j.status = 'retrying' OR (j.status = 'queued' AND j.reason IS NOT NULL) THEN j.due_at END AS next_attempt_at"
_MESSAGE = f"{_columns('j', MessageRow)}, j.body, j.delivery, j.metadata, j.callback_url, j.provider_message_id, {_DUE}"
_SUMMARY = """CASE WHEN j.status = 'completed' THEN (
        SELECT json_build_object('posts', r.posts, 'users', r.users, 'words', r.words,
            'snapshot_at', to_char(r.snapshot_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
        FROM report_results r WHERE r.job_id = j.id AND r.claim_token = j.claim_token) END AS summary"""
_DETAIL = ", ".join(f"'{name}', j.progress_detail -> '{name}'" for name in list(Progress.__annotations__)[2:])
# The body of a report is `ReportParameters.to_json`. A message's is any text: CASE keeps it from the cast.
_PARAMETERS = """CASE WHEN j.kind = 'report' AND j.body IS NOT NULL THEN (
        SELECT json_strip_nulls(json_build_object(
            'from', replace(b ->> 'start', '+00:00', 'Z'), 'to', replace(b ->> 'end', '+00:00', 'Z'),
            'user_ids', b -> 'user_ids', 'order', b -> 'order', 'limit', b -> 'limit',
            'histogram', CASE WHEN b ->> 'histogram' = 'true' THEN 'words' END))
        FROM (SELECT CAST(j.body AS json) AS b) body) ELSE '{}' END AS parameters"""
_REPORT = f"""{_columns("j", JobRow)}, j.callback_url, {_DUE},
    (SELECT a.reason FROM attempts a WHERE a.job_id = j.id ORDER BY a.revision DESC, a.n DESC LIMIT 1) AS last_reason,
    CASE WHEN j.progress_done IS NOT NULL THEN json_build_object('posts', j.progress_done, 'of_about',
        CASE WHEN j.status = 'completed' THEN j.progress_done
            WHEN j.progress_about IS NOT NULL THEN greatest(j.progress_done, j.progress_about) END, {_DETAIL}) END AS progress,
    {_PARAMETERS},
    {_SUMMARY}"""  # noqa: S608

# No condition but the ids: any other would let the planner scan a partial index.
_RECORDS = "SELECT j.client_id, j.kind, {columns} FROM jobs j WHERE j.id = ANY(CAST(:ids AS uuid[]))"
_MESSAGES = sa.text(_RECORDS.format(columns=_MESSAGE))
_REPORTS = sa.text(_RECORDS.format(columns=_REPORT))

# By id, newest first: a UUIDv7 begins with the clock of the process that accepted the job.
_PAGE = """
SELECT {columns} FROM jobs j
WHERE j.client_id = :client_id AND j.kind = '{kind}' AND j.id < CAST(:before AS uuid) {clauses}
ORDER BY j.id DESC LIMIT :limit
"""
# A tag is searched first, because its rows are in order.
_TAGGED = """
SELECT {columns} FROM message_tags t JOIN jobs j ON j.id = t.job_id
WHERE t.client_id = :client_id AND t.tag = :tag AND t.job_id < CAST(:before AS uuid)
    AND j.client_id = :client_id AND j.kind = '{kind}' {clauses}
ORDER BY t.job_id DESC LIMIT :limit
"""
# Constants: no value is ever part of a statement's text. Each filter has its own index, which ends in the id.
_CLAUSES = {
    # A subquery, because the planner takes the index of dead letters for a constant.
    "status": "AND j.status = (SELECT CAST(:status AS text))",
    "destination": "AND j.destination = :destination",
    "reference": "AND j.reference = :reference",
}
BEHIND_ALL = UUID(int=2**128 - 1)
_REPORT_PAGE = sa.text(_PAGE.format(columns=_REPORT, kind=Kind.REPORT, clauses=""))


def message_page(filters: Mapping[str, str]) -> str:
    """The statement of a page of the messages that match every filter: `status`, `destination`, `reference`, `tag`."""
    clauses = " ".join(clause for name, clause in _CLAUSES.items() if name in filters)
    page = _TAGGED if "tag" in filters else _PAGE
    return page.format(columns=_columns("j", MessageRow), kind=Kind.MESSAGE, clauses=clauses)


_STATUSES = sa.text("SELECT id, version, status, kind, client_id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")

_ATTEMPTS = sa.text(f"""
SELECT {_columns("a", Attempt)} FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id
WHERE j.id = :id AND j.client_id = coalesce(:client_id, j.client_id) AND j.kind = coalesce(:kind, j.kind)
ORDER BY a.revision, a.n
""")  # noqa: S608  a constant

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
        rows = await self._rows(_STATUSES, {"ids": [str(id_) for id_ in ids]}, timeout)
        typed = ({**row, "status": Status(row["status"]), "kind": Kind(row["kind"])} for row in rows)
        known = {row["id"]: KnownStatus(**row, at=at) for row in typed}
        return [known.get(id_) for id_ in ids]

    async def messages(self, keys: Sequence[JobKey], timeout: float) -> list[MessageRecord | None]:
        """The messages with these keys, in order; None: the client has no such message."""
        return await self._records(_MESSAGES, Kind.MESSAGE, keys, timeout)

    async def reports(self, keys: Sequence[JobKey], timeout: float) -> list[ReportRecord | None]:
        """The reports with these keys, in order; None: the client has no such report."""
        return await self._records(_REPORTS, Kind.REPORT, keys, timeout)

    async def _records(self, statement: sa.TextClause, kind: Kind, keys: Sequence[JobKey], timeout: float) -> list[Any]:
        rows = await self._rows(statement, {"ids": [str(id_) for id_, _ in keys]}, timeout)
        found = {(row["id"], row.pop("client_id"), row.pop("kind")): row for row in rows}
        return [found.get((*key, kind)) for key in keys]

    async def message_page(
        self, client_id: str, filters: Mapping[str, str], before: UUID, limit: int, timeout: float
    ) -> list[MessageRow]:
        """At most `limit` messages of the client that match the filters, newest first, with ids below `before`."""
        parameters = {**filters, "client_id": client_id, "before": str(before), "limit": limit}
        return await self._rows(sa.text(message_page(filters)), parameters, timeout)

    async def report_page(self, client_id: str, before: UUID, limit: int, timeout: float) -> list[ReportRecord]:
        """At most `limit` reports of the client, newest first, with ids below `before`."""
        parameters = {"client_id": client_id, "before": str(before), "limit": limit}
        return await self._rows(_REPORT_PAGE, parameters, timeout)

    async def attempts(self, id_: UUID, client_id: str | None, kind: Kind | None, timeout: float) -> list[Attempt] | None:
        """Attempts of a job, oldest first; None if the client has no such job. `client_id`, `kind`: None matches any."""
        rows = await self._rows(_ATTEMPTS, {"id": str(id_), "client_id": client_id, "kind": kind}, timeout)
        return [row for row in rows if row["n"] is not None] if rows else None

    async def callbacks(self, id_: UUID, client_id: str, kind: Kind, timeout: float) -> list[Callback] | None:
        """Callbacks of a job, oldest first; None if the client has no such job of this kind."""
        rows = await self._rows(_CALLBACKS, {"id": str(id_), "client_id": client_id, "kind": kind}, timeout)
        return [row for row in rows if row["id"] is not None] if rows else None

    async def backlog(self, client_id: str, most: int, timeout: float) -> int:
        """The number of a client's due jobs that wait, without those of paused providers; counts up to `most`."""
        return int(await self._pool.value(_BACKLOG, timeout, client_id=client_id, most=most))

    async def answers(self, timeout: float) -> None:
        """Return if Postgres answers."""
        await self._rows(sa.text("SELECT 1"), {}, timeout)

    async def _rows(self, statement: sa.TextClause, parameters: Mapping[str, Any], timeout: float) -> list[Any]:
        """The rows as dictionaries. Their type is a promise of the caller's statement."""
        return await self._pool.call(lambda c: [dict(row) for row in c.execute(statement, parameters).mappings()], timeout)
