"""Answers with results: totals, whole or one page, and histograms, in each format. The API and the console share them.

A result never changes, so its entity tag derives from its stored SHA-256, the format and the page, without reading it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, page_of
from api.models import MAX_RESULT_PAGE
from api.problems import not_found, unavailable
from api.result_files import FileAnswer, ResultFile, ResultWriter, digest_header, has_current
from api.result_formats import CSV, Format, Pairs, Table, csv_header, csv_rows, json_rows
from infra.postgres.results import BEFORE_ALL, ReportResult, Results, Total

AT_ONCE = 2  # files that one process writes at once: formatting takes processor time from all other requests
WAITING = 20  # further requests that may wait
PAGE_SECONDS = 3.0  # for each read of a whole result: a slow one must not undo the others

_TOTALS = ("user_id", "total_words")
_LENGTHS = ("words", "posts")


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of a file: a part of the result, or the rest of it after a page, with the rows of its table."""

    part: Literal["totals", "histogram"]
    page: str
    table: Table
    batches: AsyncIterator[Pairs]


class ResultAnswers:
    """Makes answers with the results of completed reports. Each raises a 404 problem if there is no such result.

    Every read precedes the first byte of the answer, so a failure is a problem answer. `as_file` has browsers save JSON, too.
    """

    def __init__(self, results: Results):
        self._results = results
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._writing = 0

    async def totals(
        self, request: Request, id_: UUID, format_: Format, after: int = BEFORE_ALL, *, as_file: bool = False
    ) -> Response:
        """All totals after a key."""
        result = await self._find(id_)
        members: dict[str, Any] = {}
        metadata = _metadata(result)
        if result.histogram is not None:
            members["histogram"] = json_rows(_LENGTHS, result.histogram)
            metadata["posthaste.histogram"] = orjson.dumps(result.histogram).decode()
        content = _Content("totals", f"after {after}", Table(_TOTALS, members, metadata), self._batches(result, after))
        return await self._whole(request, result, format_, content, as_file)

    async def histogram(self, request: Request, id_: UUID, format_: Format, *, as_file: bool = False) -> Response:
        """The number of posts by their number of words. 404 if the report was submitted without `histogram`."""
        result = await self._find(id_)
        if result.histogram is None:
            raise not_found('The report has no histogram. A report that is submitted with "histogram": "words" has one.')
        content = _Content("histogram", "all", Table(_LENGTHS, {}, _metadata(result)), _one(result.histogram))
        return await self._whole(request, result, format_, content, as_file)

    async def page(self, request: Request, id_: UUID, format_: Format, after: int, limit: int) -> Response:
        """At most `limit` totals after a key, as JSON or CSV."""
        result = await self._find(id_)
        etag = _entity_tag(result, format_, "totals", f"{limit} after {after}")
        if has_current(request, etag):
            return _not_modified(etag)
        rows = await self._results.page(result, after, limit + 1, READ_SECONDS)
        page, cursor = page_of(rows, limit, lambda row: row.key)
        body = _page_body(format_, _pairs(page), cursor)
        headers = _headers(result, format_, etag) | digest_header(hashlib.sha256(body).digest())
        if cursor is not None:
            path = f"{request.url.path}?format={format_.name}&limit={limit}&cursor={cursor}"
            headers["Link"] = f'<{path}>; rel="next"'
        return Response(body, headers=headers)

    async def _find(self, id_: UUID) -> ReportResult:
        result = await self._results.find(id_, READ_SECONDS)
        if result is None:
            raise _gone()
        return result

    async def _batches(self, result: ReportResult, after: int) -> AsyncIterator[Pairs]:
        """All totals after a key. Raises a 404 problem if the report is deleted meanwhile: its rows would be incomplete."""
        limit = MAX_RESULT_PAGE
        rows = await self._results.page(result, after, limit, PAGE_SECONDS)
        yield _pairs(rows)
        while len(rows) == limit:
            rows = await self._results.page(result, rows[-1].key, limit, PAGE_SECONDS)
            yield _pairs(rows)
        await self._find(result.id)

    async def _whole(
        self, request: Request, result: ReportResult, format_: Format, content: _Content, as_file: bool
    ) -> Response:
        etag = _entity_tag(result, format_, content.part, content.page)
        if has_current(request, etag):
            return _not_modified(etag)
        async with self._turn():
            file = await _written(format_, content)
        return FileAnswer(file, _headers(result, format_, etag, content.part, as_file=as_file))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a turn to write. Raises a 503 problem if too many requests wait."""
        if self._writing >= AT_ONCE + WAITING:
            raise unavailable("Too many results are being written.", code="busy", retry_after=5)
        self._writing += 1
        try:
            async with self._turns:
                yield
        finally:
            self._writing -= 1


async def _written(format_: Format, content: _Content) -> ResultFile:
    writer = ResultWriter(format_, content.table)
    try:
        async for rows in content.batches:
            await writer.write(rows)
        return await writer.finish()
    except BaseException:
        writer.close()
        raise


async def _one(rows: Pairs) -> AsyncIterator[Pairs]:
    yield rows


def _pairs(rows: Sequence[Total]) -> Pairs:
    return [(row.user_id, row.words) for row in rows]


def _page_body(format_: Format, rows: Pairs, cursor: str | None) -> bytes:
    if format_ is CSV:
        return csv_header(_TOTALS) + csv_rows(rows)
    return orjson.dumps({"data": json_rows(_TOTALS, rows), "next_cursor": cursor})


def _metadata(result: ReportResult) -> dict[str, str]:
    """Facts about the result, for the schema of Parquet and Arrow."""
    known = {
        "parameters": result.parameters.to_json(),
        "posts": None if result.posts is None else str(result.posts),
        "snapshot_at": None if result.snapshot_at is None else result.snapshot_at.isoformat(),
    }
    return {f"posthaste.{name}": value for name, value in known.items() if value is not None}


def _entity_tag(result: ReportResult, format_: Format, part: str, page: str) -> str:
    """A strong entity tag: equal content in the same format and page has the same tag, whichever report has it.

    Results of older releases have no stored SHA-256. Their claim token identifies their content.
    """
    content = str(result.claim_token) if result.sha256 is None else result.sha256.hex()
    facts = [content, _metadata(result), result.histogram, format_.name, format_.writer_version, part, page]
    return f'"{hashlib.sha256(orjson.dumps(facts)).hexdigest()[:32]}"'


def _headers(
    result: ReportResult, format_: Format, etag: str, part: str = "totals", *, as_file: bool = False
) -> dict[str, str]:
    headers = {"Content-Type": format_.content_type, "ETag": etag, "Vary": "Accept"}
    if as_file or format_.name != "json":
        name = f"report-{result.id}{'' if part == 'totals' else f'-{part}'}.{format_.extension}"
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return headers


def _not_modified(etag: str) -> Response:
    return Response(status_code=304, headers={"ETag": etag, "Vary": "Accept"})


def _gone() -> Exception:
    return not_found("The report was deleted.")
