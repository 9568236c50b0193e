"""The pages of reports: start one, its live progress, and its result as charts, a table and files."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from uuid_utils.compat import uuid7

from api.answers import READ_SECONDS, from_cursor, job_id, page_of
from api.callers import caller_of, client_of
from api.console.formats import instant
from api.console.pages import Pages, is_fragment, see_other
from api.console.report_charts import Chart, histogram_chart, users_chart
from api.console.report_form import NotValid, parse, typed_values
from api.problems import Problem, not_found
from api.result_formats import FORMATS
from api.results import ResultAnswers
from infra.keys import Scope
from infra.postgres.job_reads import BEHIND_ALL, JobReads, ReportRecord
from infra.postgres.newest import NewestReads
from infra.postgres.results import BEFORE_ALL, ReportResult, Results, Sums, Total
from jobs.lifecycle import ENDS, Status
from jobs.model import REPORTS, IdempotencyKey, Kind, NewJob
from jobs.reports import ReportParameters
from service.transitions import Acceptance

PAGE = 25
ROWS = 25  # of a result
TOP = 12  # users in the chart
_SUMMARIES = 100  # cached ones: a completed report never changes
_ROUTE = "/console/reports"
_KEY = re.compile(r"[A-Za-z0-9_-]{22}")
_PARTS = ("totals", "histogram")


@dataclass(frozen=True, slots=True)
class Summary:
    """The sums of a result, and its users with the most words."""

    sums: Sums
    top: Sequence[Total]


@dataclass(eq=False)
class ReportPages:
    """The endpoints of reports. `answers` writes files; `callback_url`: of the reports that are started here."""

    pages: Pages
    newest: NewestReads
    jobs: JobReads
    results: Results
    answers: ResultAnswers
    acceptance: Acceptance
    callback_url: str | None
    _summaries: dict[UUID, Summary] = field(default_factory=dict, init=False)

    async def list(self, request: Request) -> Response:
        """A form, and the newest reports, of all clients for admins."""
        return await self._listed(request, {}, {}, secrets.token_urlsafe(16))

    async def _listed(self, request: Request, typed: dict[str, str], faults: dict[str, str], key: str) -> Response:
        """The page. Each form has a key, so a repeated one starts no second report."""
        caller = caller_of(request)
        before = from_cursor(request.query_params.get("cursor") or None, UUID, BEHIND_ALL)
        client_id = None if caller.may(Scope.ADMIN) else caller.client_id
        rows = await self.newest.reports(client_id, before, PAGE + 1, READ_SECONDS)
        page, cursor = page_of(rows, PAGE, lambda row: row.id)
        values: dict[str, Any] = {"reports": page, "next": cursor, "first": "cursor" not in request.query_params}
        values |= {"typed": typed, "faults": faults, "key": key, "all": client_id is None}
        return self.pages.show(request, "reports.html", 422 if faults else 200, **values)

    async def start(self, request: Request) -> Response:
        """Accept a report under the key of the form, and show it. A form that is not valid is shown again."""
        form = await request.form()
        key = str(form.get("key", ""))
        if not _KEY.fullmatch(key):
            raise Problem(422, "validation", "The form has no valid key. Open the page again.")
        try:
            parameters = parse(form).parameters()
        except NotValid as error:
            return await self._listed(request, typed_values(form), error.faults, key)
        once = IdempotencyKey(_ROUTE, key, hashlib.sha256(f"report{parameters.to_body() or ''}".encode()).hexdigest())
        body = parameters.to_body()
        new = NewJob(uuid7(), client_of(request), REPORTS, body=body, key=once, callback_url=self.callback_url)
        accepted = await self.acceptance.accept(new)
        return see_other(f"{_ROUTE}/{accepted.id}")

    async def show(self, request: Request) -> Response:
        """One report. htmx asks for it again until it is over."""
        record, client_id = await self._read(request)
        values: dict[str, Any] = {"report": record, "client_id": client_id, "over": record["status"] in ENDS, "result": None}
        if record["status"] is Status.COMPLETED:
            values |= await self._shown(await self._result(record["id"]), request.query_params)
        block = "report" if is_fragment(request) else None
        return self.pages.show(request, "report.html", block=block, **values)

    async def result(self, request: Request) -> Response:
        """The whole result, or its histogram, as a file."""
        format_ = next((each for each in FORMATS.values() if each.name == request.query_params.get("format")), None)
        part = request.query_params.get("part", _PARTS[0])
        if format_ is None or part not in _PARTS:
            raise Problem(422, "validation", f"Formats: {', '.join(FORMATS)}. Parts: {', '.join(_PARTS)}.")
        id_ = await self._completed(request)
        make = self.answers.totals if part == "totals" else self.answers.histogram
        return await make(request, id_, format_, as_file=True)

    async def users_chart(self, request: Request) -> Response:
        """The chart of the users with the most words as a file."""
        result = await self._result(await self._completed(request))
        return self._file(result, users_chart((await self._summary(result)).top))

    async def histogram_chart(self, request: Request) -> Response:
        """The histogram as a file."""
        result = await self._result(await self._completed(request))
        if result.histogram is None:
            raise not_found("The report has no histogram.")
        return self._file(result, histogram_chart(result.histogram))

    def _file(self, result: ReportResult, chart: Chart) -> Response:
        text = self.pages.text("report_chart_file.svg", chart=chart)
        name = {"Content-Disposition": f'attachment; filename="report-{result.id}-{chart.name}.svg"'}
        return Response(text, headers=name, media_type="image/svg+xml")

    async def _completed(self, request: Request) -> UUID:
        """The id of the completed report in the path. Raises a 404 problem if there is none."""
        record, _ = await self._read(request)
        if record["status"] is not Status.COMPLETED:
            raise not_found(f"The report is {record['status']}. It has no result.")
        return record["id"]

    async def _result(self, id_: UUID) -> ReportResult:
        result = await self.results.find(id_, READ_SECONDS)
        if result is None:
            raise not_found("The report was deleted.")
        return result

    async def _summary(self, result: ReportResult) -> Summary:
        """The summary, from memory if this process has read it before."""
        summary = self._summaries.get(result.id)
        if summary is None:
            sums = await self.results.sums(result, READ_SECONDS)
            summary = self._summaries[result.id] = Summary(sums, await self.results.top(result, TOP, READ_SECONDS))
        while len(self._summaries) > _SUMMARIES:
            del self._summaries[next(iter(self._summaries))]
        return summary

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

    async def _shown(self, result: ReportResult, query: Mapping[str, str]) -> dict[str, Any]:
        """The charts, and one page of the table."""
        summary = await self._summary(result)
        after = from_cursor(query.get("cursor") or None, int, BEFORE_ALL)
        if not BEFORE_ALL <= after < 2**31:
            raise not_found("The result has no such page.")
        found = await self.results.page(result, after, ROWS + 1, READ_SECONDS)
        rows, cursor = page_of(found, ROWS, lambda row: row.key)
        charts = [users_chart(summary.top)] if summary.top else []
        if result.histogram:
            charts.append(histogram_chart(result.histogram))
        values = {"sums": summary.sums, "charts": charts, "chosen": _chosen(result.parameters)}
        return {"result": result, **values, "rows": rows, "next": cursor, "first": after == BEFORE_ALL}


def _chosen(parameters: ReportParameters) -> list[tuple[str, str]]:
    """The parameters that differ from their defaults, in words."""
    users = parameters.user_ids
    known = [
        ("Posts from", None if parameters.start is None else f"{instant(parameters.start)} UTC"),
        ("Posts before", None if parameters.end is None else f"{instant(parameters.end)} UTC"),
        ("Users", None if users is None else f"{users[0]}" if len(users) == 1 else f"{len(users):,} chosen"),
        ("Order", "most words first" if parameters.order == "words" else None),
        ("Limit", None if parameters.limit is None else f"the {parameters.limit:,} users with the most words"),
    ]
    return [(name, value) for name, value in known if value is not None]
