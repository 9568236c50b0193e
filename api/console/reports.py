"""The pages of reports: start one, its live progress, and its result as a chart, a table and files."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from uuid_utils.compat import uuid7

from api.answers import READ_SECONDS, from_cursor, job_id, page_of
from api.callers import caller_of, client_of
from api.console.pages import Pages, is_fragment, see_other
from api.problems import Problem, not_found
from api.reports import whole_result
from infra.keys import Scope
from infra.postgres.job_reads import BEHIND_ALL, JobReads, ReportRecord
from infra.postgres.newest import NewestReads
from infra.postgres.totals import Summary, Totals
from jobs.lifecycle import ENDS, Status
from jobs.model import REPORTS, IdempotencyKey, Kind, NewJob
from service.transitions import Acceptance

PAGE = 25
ROWS = 25  # of a result
TOP = 12  # users in the chart
_SUMMARIES = 100  # cached ones: a completed report never changes
_ROUTE = "/console/reports"
_KEY = re.compile(r"[A-Za-z0-9_-]{22}")
_BELOW_ALL = -(2**31) - 1


@dataclass(frozen=True, slots=True)
class Bar:
    """One user of the chart. `percent`: of the user with the most words."""

    user_id: int
    words: int
    percent: float


@dataclass(eq=False)
class ReportPages:
    """The endpoints of reports. `callback_url`: of the reports that are started here."""

    pages: Pages
    newest: NewestReads
    jobs: JobReads
    totals: Totals
    acceptance: Acceptance
    callback_url: str | None
    _summaries: dict[UUID, Summary] = field(default_factory=dict, init=False)

    async def list(self, request: Request) -> Response:
        """The newest reports, of all clients for admins. Each form has a key, so a repeated one starts no second report."""
        caller = caller_of(request)
        before = from_cursor(request.query_params.get("cursor") or None, UUID, BEHIND_ALL)
        client_id = None if caller.may(Scope.ADMIN) else caller.client_id
        rows = await self.newest.reports(client_id, before, PAGE + 1, READ_SECONDS)
        page, cursor = page_of(rows, PAGE, lambda row: row.id)
        values: dict[str, Any] = {"reports": page, "next": cursor, "first": "cursor" not in request.query_params}
        return self.pages.show(request, "reports.html", **values, key=secrets.token_urlsafe(16), all=client_id is None)

    async def start(self, request: Request) -> Response:
        """Accept a report under the key of the form, and show it."""
        key = str((await request.form()).get("key", ""))
        if not _KEY.fullmatch(key):
            raise Problem(422, "validation", "The form has no valid key. Open the page again.")
        once = IdempotencyKey(_ROUTE, key, hashlib.sha256(b"report").hexdigest())
        new = NewJob(uuid7(), client_of(request), REPORTS, key=once, callback_url=self.callback_url)
        accepted = await self.acceptance.accept(new)
        return see_other(f"{_ROUTE}/{accepted.id}")

    async def show(self, request: Request) -> Response:
        """One report. htmx asks for it again until it is over."""
        record, client_id = await self._read(request)
        values: dict[str, Any] = {"report": record, "client_id": client_id, "over": record["status"] in ENDS, "bars": []}
        if record["status"] is Status.COMPLETED:
            values |= await self._result(record["id"], request.query_params)
        block = "report" if is_fragment(request) else None
        return self.pages.show(request, "report.html", block=block, **values)

    async def result(self, request: Request) -> Response:
        """The whole result as a file."""
        form = request.query_params.get("format")
        if form not in ("json", "csv"):
            raise Problem(422, "validation", "Formats: json, csv.")
        record, _ = await self._read(request)
        if record["status"] is not Status.COMPLETED:
            raise not_found(f"The report is {record['status']}. It has no result.")
        response = await whole_result(self.totals, "csv" if form == "csv" else "json", record["id"])
        response.headers["Content-Disposition"] = f'attachment; filename="report-{record["id"]}.{form}"'
        return response

    async def _read(self, request: Request) -> tuple[ReportRecord, str]:
        """The report in the path and its client. Raises a 404 problem if the viewer has no such report."""
        caller, id_ = caller_of(request), job_id(request)
        (known,) = await self.jobs.statuses([id_], READ_SECONDS)
        may_see = known is not None and known.kind is Kind.REPORT and known.client_id == caller.client_id
        if known is None or not (may_see or (caller.may(Scope.ADMIN) and known.kind is Kind.REPORT)):
            raise not_found("There is no report with this id.")
        (record,) = await self.jobs.reports([(id_, known.client_id)], READ_SECONDS)
        if record is None:
            raise not_found("There is no report with this id.")
        return {**record, "status": Status(record["status"])}, known.client_id

    async def _result(self, id_: UUID, query: Mapping[str, str]) -> dict[str, Any]:
        """The chart, and one page of the table."""
        summary = self._summaries.get(id_) or await self.totals.summary(id_, TOP, READ_SECONDS)
        self._summaries[id_] = summary
        while len(self._summaries) > _SUMMARIES:
            del self._summaries[next(iter(self._summaries))]
        after = from_cursor(query.get("cursor") or None, int, _BELOW_ALL)
        if not _BELOW_ALL <= after < 2**31:
            raise not_found("The result has no such page.")
        rows, cursor = page_of(await self.totals.page(id_, after, ROWS + 1, READ_SECONDS), ROWS, lambda row: row[0])
        return {"summary": summary, "bars": _bars(summary), "rows": rows, "next": cursor, "first": after == _BELOW_ALL}


def _bars(summary: Summary) -> list[Bar]:
    most = max((words for _, words in summary.top), default=0) or 1
    return [Bar(user_id, words, round(100 * words / most, 2)) for user_id, words in summary.top]
