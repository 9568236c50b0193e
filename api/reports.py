"""The report: within the request (1.0), and as a job (2.0) with its result, whole or paged, in several formats."""

from uuid import UUID

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, as_json, from_cursor, job_id, page_of
from api.callers import client_of
from api.jobs import BASES, JobEndpoints, Waiting
from api.models import HistogramQuery, PageQuery, ReportIn, ResultQuery
from api.problems import Problem, invalid
from api.requests import has_body, preferred, read_model, read_query
from api.result_formats import BY_MEDIA_TYPE, FORMATS, Format, FormatName
from api.results import ResultAnswers
from api.shapes import FieldProblem, ReportAcceptedOut, ReportListOut, ReportOut, TotalsOut
from api.submissions import Submissions, replay_header
from infra.errors import Transient
from infra.postgres.errors import DeadlinePassed
from infra.postgres.job_reads import BEHIND_ALL, JobReads, Progress, ReportRecord
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import about_how_many, texts
from infra.postgres.results import BEFORE_ALL
from jobs.lifecycle import ENDS, Status
from jobs.model import REPORTS, Kind
from jobs.words import total_words

AT_ONCE = 2  # concurrent reports, the threads of their pool: counting takes processor time from all other requests
WAITING = 20  # further requests that may wait
SECONDS = 30.0  # for one request, its wait included
MOST_POSTS = 30_000_000  # a million for each second: four times the rate that two processors of 2026 reach
JOBS = BASES[Kind.REPORT]


class ReportEndpoints(JobEndpoints[ReportRecord]):
    """The endpoints of reports. `pool` counts those within the request."""

    def __init__(self, submissions: Submissions, jobs: JobReads, waiting: Waiting, results: ResultAnswers, pool: DatabasePool):
        super().__init__(Kind.REPORT, jobs, jobs.reports, _record, waiting)
        self._submissions = submissions
        self._results = results
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
        answer: TotalsOut = {"data": [{"user_id": user_id, "total_words": words} for user_id, words in totals.items()]}
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
        """The totals, whole or one page of JSON and CSV."""
        query = read_query(request, ResultQuery)
        format_ = _format(request, query.format)
        if not format_.is_paged:
            _refuse_page(format_, query)
        after = from_cursor(query.cursor, _key, BEFORE_ALL)
        await self._completed(request)
        if query.limit is None:
            return await self._results.totals(request, job_id(request), format_, after)
        return await self._results.page(request, job_id(request), format_, after, query.limit)

    async def histogram(self, request: Request) -> Response:
        """The number of posts by their number of words."""
        query = read_query(request, HistogramQuery)
        format_ = _format(request, query.format)
        await self._completed(request)
        return await self._results.histogram(request, job_id(request), format_)

    async def _completed(self, request: Request) -> None:
        """Raise a 409 problem unless the report is completed."""
        record = await self._read(request)
        if record["status"] != Status.COMPLETED:
            raise _no_result(record)


class _TooManyPosts(Exception):
    """The estimated number of posts is far more than a request can count."""


def _count(connection: Connection) -> dict[int, int]:
    """Words by user id. Raises `_TooManyPosts` before it reads a post."""
    if (about := about_how_many(connection) or 0) > MOST_POSTS:
        raise _TooManyPosts(about)
    return total_words(texts(connection))


def _format(request: Request, name: FormatName | None) -> Format:
    """The format of the query, else by Accept. Raises a 406 problem if the header accepts none."""
    return preferred(request, BY_MEDIA_TYPE) if name is None else FORMATS[name]


def _refuse_page(format_: Format, query: ResultQuery) -> None:
    """Raise a 422 problem for a page of a format that has none."""
    detail = f"is for json and csv: {format_.name} has no pages"
    named = {"?limit": query.limit, "?cursor": query.cursor}
    problems = [FieldProblem(name, "not_paged", detail) for name, value in named.items() if value is not None]
    if problems:
        raise invalid(*problems)


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


def _key(text: str) -> int:
    """The key in a cursor: a user id, or a position. Raises `ValueError` if it is none."""
    number = int(text)
    if not BEFORE_ALL < number < 2**31:
        raise ValueError(text)
    return number
