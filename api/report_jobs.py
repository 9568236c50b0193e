"""The report as a job: submit, list, state with progress, status, events, result."""

from dataclasses import dataclass
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from uuid_utils.compat import uuid7

from api import report_result
from api.answers import READ_SECONDS, as_json, from_cursor, instant, instant_or_none, job_id, page_of
from api.callbacks import CallbackUrls
from api.callers import client_of
from api.idempotency import idempotency_key, replay_header
from api.job_history import JobHistory
from api.models import MAX_RESULT_PAGE, PageQuery, ReportIn, ResultQuery
from api.problems import Problem, not_found
from api.requests import has_body, preferred, read_model, read_query
from api.shapes import Progress, ReportAcceptedOut, ReportListOut, ReportOut
from api.waiting import Waiting, versioned
from infra.errors import Transient
from infra.postgres.reports import ReportRecord, Reports
from infra.postgres.totals import Totals
from jobs.lifecycle import ENDS, Status
from jobs.model import REPORTS, Kind, NewJob
from service.transitions import Acceptance

JOBS = "/api/2.0/report/jobs"


@dataclass(frozen=True, slots=True)
class ReportJobEndpoints:
    """The endpoints, and the use cases that they call."""

    acceptance: Acceptance
    waiting: Waiting
    history: JobHistory
    store: Reports
    totals: Totals
    callbacks: CallbackUrls

    async def post(self, request: Request) -> Response:
        submission = await read_model(request, ReportIn) if has_body(request) else ReportIn()
        callback_url = self.callbacks.resolve(submission)
        key = idempotency_key(request, submission)
        job = NewJob(uuid7(), client_of(request), REPORTS, key=key, callback_url=callback_url)
        accepted = await self.acceptance.accept(job)
        answer: ReportAcceptedOut = {
            "id": accepted.id,
            "status": "queued",
            "message": "Report job submitted",
            "created_at": instant(accepted.created_at),
            "links": _links(accepted.id),
        }
        return as_json(answer, 202, {"Location": f"{JOBS}/{accepted.id}", **replay_header(accepted.replayed)})

    async def list(self, request: Request) -> Response:
        """The client's reports, newest first."""
        query = read_query(request, PageQuery)
        before = None if query.cursor is None else from_cursor(query.cursor, UUID)
        rows = await self.store.page(client_of(request), before, query.limit + 1, READ_SECONDS)
        page, cursor = page_of(rows, query.limit, lambda row: row.id)
        answer: ReportListOut = {"data": [_record(record) for record in page], "next_cursor": cursor}
        return as_json(answer)

    async def state(self, request: Request) -> Response:
        applied = await self.waiting.first(request, Kind.REPORT)
        record = await self._read(request)
        return versioned(request, record.version, _record(record), applied)

    async def status(self, request: Request) -> Response:
        return await self.waiting.status(request, Kind.REPORT)

    async def events(self, request: Request) -> Response:
        return await self.waiting.events(request, Kind.REPORT, self._read_progress)

    async def _read_progress(self, id_: UUID, client_id: str) -> Progress | None:
        """A report's progress; None if it has none, or the database does not answer."""
        try:
            record = await self.store.get(id_, client_id, READ_SECONDS)
        except Transient:
            return None  # the next read may succeed
        return None if record is None else _progress(record)

    async def attempts(self, request: Request) -> Response:
        return await self.history.attempts(request, Kind.REPORT)

    async def list_callbacks(self, request: Request) -> Response:
        return await self.history.callbacks(request, Kind.REPORT)

    async def result(self, request: Request) -> Response:
        """The totals, whole or one page; JSON or CSV."""
        query = read_query(request, ResultQuery)
        form = preferred(request, report_result.FORMATS) if query.format is None else query.format
        after = report_result.FIRST if query.cursor is None else from_cursor(query.cursor, report_result.user_id)
        record = await self._read(request)
        if record.status is not Status.COMPLETED:
            raise _no_result(record)
        limit = query.limit or MAX_RESULT_PAGE
        rows = await self.totals.page(record.id, after, limit + 1, READ_SECONDS)
        path = f"{JOBS}/{record.id}/result"
        if query.limit is not None:
            return report_result.page(form, record.id, path, rows, limit)

        async def read(after: int) -> report_result.Rows:
            return await self.totals.page(record.id, after, limit + 1, READ_SECONDS)

        return report_result.whole(form, record.id, rows, limit, read)

    async def _read(self, request: Request) -> ReportRecord:
        record = await self.store.get(job_id(request), client_of(request), READ_SECONDS)
        if record is None:
            raise not_found()
        return record


def _links(id_: UUID) -> dict[str, str]:
    return {"self": f"{JOBS}/{id_}"} | {name: f"{JOBS}/{id_}/{name}" for name in ("status", "events", "callbacks", "result")}


def _progress(record: ReportRecord) -> Progress | None:
    done, about = record.progress_done, record.progress_about
    return None if done is None else {"posts": done, "of_about": about if about is None else max(done, about)}


def _record(record: ReportRecord) -> ReportOut:
    return {
        "id": record.id,
        "status": record.status,
        "version": record.version,
        "progress": _progress(record),
        "attempts": record.attempts,
        "reason": record.reason,
        "last_reason": record.last_reason,
        "callback_url": record.callback_url,
        "created_at": instant(record.created_at),
        "updated_at": instant(record.updated_at),
        "finished_at": instant_or_none(record.finished_at),
        "next_attempt_at": instant_or_none(record.next_attempt_at),
        "links": _links(record.id),
    }


def _no_result(record: ReportRecord) -> Problem:
    if record.status in ENDS:
        why = f" ({record.reason}; last attempt: {record.last_reason})" if record.reason else ""
        return Problem(409, "no_result", f"The report is {record.status}{why}. It has no result.")
    detail = f"The report is {record.status}. It has a result once it is completed."
    return Problem(409, "not_completed", detail, headers={"Retry-After": "1"})
