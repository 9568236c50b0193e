"""The report: within the request (1.0), and as a job (2.0) whose result is JSON or CSV (RFC 4180), paged or streamed."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal
from uuid import UUID

import orjson
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.answers import READ_SECONDS, as_json, from_cursor, page_of
from api.callers import client_of
from api.jobs import BASES, JobEndpoints, Waiting
from api.models import MAX_RESULT_PAGE, PageQuery, ReportIn, ResultQuery
from api.problems import Problem
from api.requests import has_body, preferred, read_model, read_query
from api.shapes import ReportAcceptedOut, ReportListOut, ReportOut, TotalOut, TotalsOut
from api.submissions import Submissions, replay_header
from infra.errors import Transient
from infra.postgres.errors import DeadlinePassed
from infra.postgres.job_reads import BEHIND_ALL, JobReads, Progress, ReportRecord
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import about_how_many, texts
from infra.postgres.totals import Totals
from jobs.lifecycle import ENDS, Status
from jobs.model import REPORTS, Kind
from jobs.words import total_words

AT_ONCE = 2  # concurrent reports, the threads of their pool: counting takes processor time from all other requests
WAITING = 20  # further requests that may wait
SECONDS = 30.0  # for one request, its wait included
MOST_POSTS = 30_000_000  # a million for each second: four times the rate that two processors of 2026 reach
JOBS = BASES[Kind.REPORT]

Rows = list[tuple[int, int]]  # user id, total words
Format = Literal["json", "csv"]
_FORMATS: Mapping[str, Format] = {"application/json": "json", "text/csv": "csv"}
_MEDIA_TYPES = {"json": "application/json", "csv": "text/csv; charset=utf-8; header=present"}
_CSV_HEADER = "user_id,total_words\r\n"
_FIRST = -(2**31) - 1  # below every user id, which is a Postgres integer


class ReportEndpoints(JobEndpoints[ReportRecord]):
    """The endpoints of reports. `pool` counts those within the request."""

    def __init__(self, submissions: Submissions, jobs: JobReads, waiting: Waiting, totals: Totals, pool: DatabasePool):
        super().__init__(Kind.REPORT, jobs, jobs.reports, _record, waiting)
        self._submissions = submissions
        self._totals = totals
        self._pool = pool
        self._requests = 0

    async def report(self, request: Request) -> Response:
        """The report within the request. Limits bound the concurrent reports, the waiting requests, and the time of each."""
        if self._requests >= AT_ONCE + WAITING:
            raise _unavailable("busy", "Too many reports are being computed.", "5")
        self._requests += 1
        try:
            totals = await self._pool.call(_count, SECONDS)
        except _TooManyPosts as error:
            detail = f"The table has about {error} posts. A report within the request has {SECONDS:g} s."
            raise _unavailable("too_slow", detail, "60") from error
        except DeadlinePassed as error:
            detail = f"The report took more than {SECONDS:g} s. There are too many posts, or the database is slow."
            raise _unavailable("too_slow", detail, "60") from error
        finally:
            self._requests -= 1
        answer: TotalsOut = {"data": [_total(row) for row in totals.items()]}
        return as_json(answer)

    async def post(self, request: Request) -> Response:
        submission = await read_model(request, ReportIn) if has_body(request) else ReportIn()
        accepted = await self._submissions.accept(request, submission, REPORTS, body=submission.parameters().to_body())
        answer: ReportAcceptedOut = {
            "id": accepted.id,
            "status": "queued",
            "message": "Report job submitted",
            "created_at": accepted.created_at,
            "links": _links(accepted.id),
        }
        return as_json(answer, 202, {"Location": answer["links"]["self"], **replay_header(accepted.replayed)})

    async def list(self, request: Request) -> Response:
        """The client's reports, newest first."""
        query = read_query(request, PageQuery)
        before = from_cursor(query.cursor, UUID, BEHIND_ALL)
        rows = await self._jobs.report_page(client_of(request), before, query.limit + 1, READ_SECONDS)
        page, cursor = page_of(rows, query.limit, lambda row: row["id"])
        answer: ReportListOut = {"data": [_record(record) for record in page], "next_cursor": cursor}
        return as_json(answer)

    async def events(self, request: Request) -> Response:
        return await self._waiting.events(request, self._kind, self._read_progress)

    async def _read_progress(self, request: Request) -> Progress | None:
        """A report's progress; None if it has none, or the database does not answer."""
        try:
            return (await self._read(request))["progress"]
        except (Transient, Problem):
            return None  # the next read may succeed

    async def result(self, request: Request) -> Response:
        """The totals, whole or one page; JSON or CSV."""
        query = read_query(request, ResultQuery)
        form = preferred(request, _FORMATS) if query.format is None else query.format
        after = from_cursor(query.cursor, _user_id, _FIRST)
        record = await self._read(request)
        if record["status"] != Status.COMPLETED:
            raise _no_result(record)
        if query.limit is None:
            return await whole_result(self._totals, form, record["id"], after)
        rows = await self._totals.page(record["id"], after, query.limit + 1, READ_SECONDS)
        return _page(form, record["id"], request.url.path, rows, query.limit)


class _TooManyPosts(Exception):
    """The estimated number of posts is far more than a request can count."""


def _count(connection: Connection) -> dict[int, int]:
    """Words by user id. Raises `_TooManyPosts` before it reads a post."""
    if (about := about_how_many(connection) or 0) > MOST_POSTS:
        raise _TooManyPosts(about)
    return total_words(texts(connection))


async def whole_result(totals: Totals, form: Format, id_: UUID, after: int = _FIRST) -> Response:
    """All totals of a completed report, read page by page. A failure of the first read is still a problem answer."""
    limit = MAX_RESULT_PAGE
    first = await totals.page(id_, after, limit, READ_SECONDS)

    async def body() -> AsyncIterator[bytes]:
        yield _CSV_HEADER.encode() if form == "csv" else b'{"data":['
        rows, separator = first, b""
        while rows:
            yield _csv(rows).encode() if form == "csv" else separator + orjson.dumps([_total(row) for row in rows])[1:-1]
            separator = b","
            rows = await totals.page(id_, rows[-1][0], limit, READ_SECONDS) if len(rows) == limit else []
        if form == "json":
            yield b"]}"

    return StreamingResponse(body(), 200, _headers(form, id_), _MEDIA_TYPES[form])


def _unavailable(code: str, why: str, retry_after: str) -> Problem:
    hint = "POST /api/2.0/report/posts computes the same report as a job, without a limit."
    headers = {"Retry-After": retry_after, "Link": '</api/2.0/report/posts>; rel="alternate"'}
    return Problem(503, code, f"{why} {hint}", headers=headers)


def _links(id_: UUID) -> dict[str, str]:
    return {"self": f"{JOBS}/{id_}"} | {name: f"{JOBS}/{id_}/{name}" for name in ("status", "events", "callbacks", "result")}


def _record(record: ReportRecord) -> ReportOut:
    return {**record, "links": _links(record["id"])}


def _no_result(record: ReportRecord) -> Problem:
    status, reason = record["status"], record["reason"]
    if status in ENDS:
        why = f" ({reason}; last attempt: {record['last_reason']})" if reason else ""
        return Problem(409, "no_result", f"The report is {status}{why}. It has no result.")
    detail = f"The report is {status}. It has a result once it is completed."
    return Problem(409, "not_completed", detail, headers={"Retry-After": "1"})


def _user_id(text: str) -> int:
    """A user id in a cursor. Raises `ValueError` if it is none."""
    number = int(text)
    if not _FIRST < number < 2**31:
        raise ValueError(text)
    return number


def _page(form: Format, id_: UUID, path: str, rows: Rows, limit: int) -> Response:
    """One page. A row beyond `limit` shows that there is a next one."""
    totals, cursor = page_of(rows, limit, lambda row: row[0])
    headers = _headers(form, id_)
    if cursor is not None:
        headers["Link"] = f'<{path}?format={form}&limit={limit}&cursor={cursor}>; rel="next"'
    if form == "csv":
        return Response(_CSV_HEADER + _csv(totals), 200, headers, _MEDIA_TYPES[form])
    answer: TotalsOut = {"data": [_total(row) for row in totals], "next_cursor": cursor}
    return as_json(answer, headers=headers)


def _headers(form: Format, id_: UUID) -> dict[str, str]:
    return {"Vary": "Accept"} | ({"Content-Disposition": f'attachment; filename="report-{id_}.csv"'} if form == "csv" else {})


def _total(row: tuple[int, int]) -> TotalOut:
    return {"user_id": row[0], "total_words": row[1]}


def _csv(rows: Sequence[tuple[int, int]]) -> str:
    return "".join(f"{user_id},{words}\r\n" for user_id, words in rows)
