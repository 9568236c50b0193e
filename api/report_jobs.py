"""The report as a job: submit, list, state with progress, status, result."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from api.answers import READ_SECONDS, as_json, cursor_for, from_cursor, instant, job_id, rows_answer
from api.callbacks import CallbackUrls
from api.callers import client_of
from api.idempotency import idempotency_key, key_reused, replay_header
from api.models import MAX_RESULT_PAGE, PageQuery, ReportIn, ResultQuery
from api.problems import Problem, not_found, unavailable
from api.requests import has_body, preferred, read_model, read_query
from api.waiting import Waiting, versioned
from infra.errors import Transient
from infra.postgres.queries import Queries, ReportRecord
from infra.postgres.totals import Totals
from jobs.lifecycle import ENDS, Status
from jobs.model import REPORTS, Kind, NewJob
from service.acceptance import Acceptance, KeyTaken, new_job_id
from service.batching import DeadlineExceeded, Overloaded

JOBS = "/api/2.0/report/jobs"
_FORMATS = {"application/json": "json", "text/csv": "csv"}
_BEFORE_ALL = -(2**31) - 1  # user ids are Postgres' integers


@dataclass(frozen=True, slots=True)
class ReportJobRoutes:
    """The handlers and what they need."""

    acceptance: Acceptance
    waiting: Waiting
    queries: Queries
    totals: Totals
    callbacks: CallbackUrls

    def routes(self) -> list[Route]:
        return [
            Route("/api/2.0/report/posts", self.post, methods=["POST"]),
            Route(JOBS, self.list, methods=["GET"]),
            Route(f"{JOBS}/{{id:job}}", self.state, methods=["GET"]),
            Route(f"{JOBS}/{{id:job}}/status", self.status, methods=["GET"]),
            Route(f"{JOBS}/{{id:job}}/events", self.events, methods=["GET"]),
            Route(f"{JOBS}/{{id:job}}/attempts", self.attempts, methods=["GET"]),
            Route(f"{JOBS}/{{id:job}}/callbacks", self.list_callbacks, methods=["GET"]),
            Route(f"{JOBS}/{{id:job}}/result", self.result, methods=["GET"]),
        ]

    async def post(self, request: Request) -> Response:
        submission = await read_model(request, ReportIn) if has_body(request) else ReportIn()
        callback_url = self.callbacks.resolve(submission)
        key = idempotency_key(request, submission)
        job = NewJob(new_job_id(), client_of(request), REPORTS, key=key, callback_url=callback_url)
        try:
            accepted = await self.acceptance.accept(job)
        except KeyTaken as error:
            raise key_reused() from error
        except DeadlineExceeded as error:
            raise unavailable("The database did not confirm in time; whether the report was accepted is unknown.") from error
        except Overloaded as error:
            raise unavailable("Too many requests are waiting for the database; the report was not accepted.") from error
        answer = {
            "id": str(accepted.id),
            "status": "queued",
            "message": "Report job submitted",
            "created_at": instant(accepted.created_at),
            "links": _links(accepted.id),
        }
        return as_json(answer, 202, {"Location": f"{JOBS}/{accepted.id}", **replay_header(accepted.replayed)})

    async def list(self, request: Request) -> Response:
        """The client's reports, newest first."""
        page = read_query(request, PageQuery)
        before = None if page.cursor is None else from_cursor(page.cursor, UUID)
        found = await self.queries.reports(client_of(request), before, page.limit + 1, READ_SECONDS)
        shown, more = found[: page.limit], len(found) > page.limit
        cursor = cursor_for(str(shown[-1].id)) if more else None
        return as_json({"data": [_to_json(record) for record in shown], "next_cursor": cursor})

    async def state(self, request: Request) -> Response:
        applied = await self.waiting.first(request, Kind.REPORT)
        record = await self._record(request)
        return versioned(request, record.version, _to_json(record), applied)

    async def status(self, request: Request) -> Response:
        return await self.waiting.status(request, Kind.REPORT)

    async def events(self, request: Request) -> Response:
        return await self.waiting.events(request, Kind.REPORT, self._progress)

    async def _progress(self, id_: UUID, client_id: str) -> dict[str, Any] | None:
        """How far a report is; None where it does not say, or nobody can."""
        try:
            record = await self.queries.report(id_, client_id, READ_SECONDS)
        except Transient:
            return None  # the next look may know
        return None if record is None else _progress(record)

    async def attempts(self, request: Request) -> Response:
        return await rows_answer(self.queries.attempts, Kind.REPORT, request)

    async def list_callbacks(self, request: Request) -> Response:
        return await rows_answer(self.queries.callbacks, Kind.REPORT, request)

    async def result(self, request: Request) -> Response:
        """The totals, whole or a page of them; JSON or CSV."""
        query = read_query(request, ResultQuery)
        form = query.format or preferred(request, _FORMATS)
        after = _BEFORE_ALL if query.cursor is None else from_cursor(query.cursor, _user_id)
        record = await self._record(request)
        if record.status is not Status.COMPLETED:
            raise _no_result(record)
        limit = query.limit or MAX_RESULT_PAGE
        rows = await self.totals.page(record.id, after, limit + 1, READ_SECONDS)
        if query.limit is None:
            body = self._whole(record.id, rows, limit)
            return StreamingResponse(_written(form, body), 200, _headers(form, record.id), _media_type(form))
        more, rows = len(rows) > limit, rows[:limit]
        return _page_answer(form, record.id, rows, cursor_for(str(rows[-1][0])) if more else None, limit)

    async def _whole(self, id_: UUID, rows: "_Rows", limit: int) -> AsyncIterator["_Rows"]:
        """All pages; the first has been read, so that what can go wrong is answered with a problem."""
        while rows:
            yield rows[:limit]
            rows = await self.totals.page(id_, rows[limit - 1][0], limit + 1, READ_SECONDS) if len(rows) > limit else []

    async def _record(self, request: Request) -> ReportRecord:
        record = await self.queries.report(job_id(request), client_of(request), READ_SECONDS)
        if record is None:
            raise not_found()
        return record


_Rows = list[tuple[int, int]]


def _links(id_: UUID) -> dict[str, str]:
    return {"self": f"{JOBS}/{id_}"} | {name: f"{JOBS}/{id_}/{name}" for name in ("status", "events", "callbacks", "result")}


def _progress(record: ReportRecord) -> dict[str, Any] | None:
    done, about = record.progress_done, record.progress_about
    return None if done is None else {"posts": done, "of_about": about if about is None else max(done, about)}


def _to_json(record: ReportRecord) -> dict[str, Any]:
    instants = {name: getattr(record, name) for name in ("created_at", "updated_at", "finished_at", "next_attempt_at")}
    return {
        "id": str(record.id),
        "status": record.status,
        "version": record.version,
        "progress": _progress(record),
        "attempts": record.attempts,
        "reason": record.reason,
        "last_reason": record.last_reason,
        "callback_url": record.callback_url,
        **{name: value and instant(value) for name, value in instants.items()},
        "links": _links(record.id),
    }


def _no_result(record: ReportRecord) -> Problem:
    if record.status in ENDS:
        why = f" ({record.reason}; the last attempt: {record.last_reason})" if record.reason else ""
        return Problem(409, "no_result", f"The report ended as {record.status}{why}; it has no result.")
    detail = f"The report is {record.status}; its result is there once it is completed."
    return Problem(409, "not_completed", detail, headers={"Retry-After": "1"})


def _user_id(text: str) -> int:
    number = int(text)
    if not _BEFORE_ALL < number < 2**31:
        raise ValueError(text)
    return number


def _media_type(form: str) -> str:
    return "text/csv; charset=utf-8; header=present" if form == "csv" else "application/json"


def _headers(form: str, id_: UUID) -> dict[str, str]:
    return {"Vary": "Accept"} | ({"Content-Disposition": f'attachment; filename="report-{id_}.csv"'} if form == "csv" else {})


def _page_answer(form: str, id_: UUID, rows: _Rows, cursor: str | None, limit: int) -> Response:
    headers = _headers(form, id_)
    if cursor is not None:
        headers["Link"] = f'<{JOBS}/{id_}/result?format={form}&limit={limit}&cursor={cursor}>; rel="next"'
    if form == "csv":
        return Response(_CSV_HEAD + _csv(rows), 200, headers, _media_type(form))
    return as_json({"data": [_row(*row) for row in rows], "next_cursor": cursor}, headers=headers)


def _row(user_id: int, total_words: int) -> dict[str, int]:
    return {"user_id": user_id, "total_words": total_words}


_CSV_HEAD = "user_id,total_words\r\n"  # RFC 4180


def _csv(rows: _Rows) -> str:
    return "".join(f"{user_id},{total_words}\r\n" for user_id, total_words in rows)


async def _written(form: str, pages: AsyncIterator[_Rows]) -> AsyncIterator[bytes]:
    yield _CSV_HEAD.encode() if form == "csv" else b'{"data":['
    first = True
    async for rows in pages:
        if form == "csv":
            yield _csv(rows).encode()
        else:
            text = orjson.dumps([_row(*row) for row in rows])[1:-1]
            yield text if first else b"," + text
        first = False
    if form == "json":
        yield b"]}"
