"""The page of dead letters: groups, the letters of a filter, and their export."""

import csv
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.answers import READ_SECONDS, from_cursor, page_of
from api.console.letters import LetterQuery, as_fields, as_query, read_letters
from api.console.pages import Pages
from api.problems import Problem
from infra.postgres.conditions import OPERATOR
from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter, Group
from jobs.model import Kind
from service.dead_letters import DeadLetters
from service.figures import COUNT_LIMIT
from service.settings_view import masked_url

PAGE = 50
MOST_EXPORTED = 100_000
_COLUMNS = [field.name for field in fields(DeadLetter)]
_MEDIA_TYPES = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8; header=present"}


@dataclass(frozen=True, slots=True)
class DeadLetterPages:
    """The endpoints of lists and exports."""

    pages: Pages
    store: DeadLetterStore
    letters: DeadLetters

    async def show(self, request: Request) -> Response:
        """Groups and letters that match the filter. An invalid filter shows its form again."""
        query = dict(request.query_params)
        try:
            values = await self._found(read_letters(request, query), query)
        except Problem as problem:
            values = _values(Filter(), query) | {"problem": problem}
        status = values["problem"].status if values["problem"] else 200
        return self.pages.show(request, "dead_letters.html", status, **values)

    async def _found(self, filter_: Filter, query: Mapping[str, str]) -> dict[str, Any]:
        groups = await self.store.groups(filter_, READ_SECONDS, most=COUNT_LIMIT + 1)
        after = from_cursor(query.get("cursor") or None, UUID, BEFORE_ALL)
        rows = await self.store.page(filter_, after, PAGE + 1, READ_SECONDS)
        page, cursor = page_of(rows, PAGE, lambda letter: letter.id)
        values = _values(filter_, query)
        values["groups"] = [(group, _query_of(filter_, group)) for group in groups]
        values["total"] = sum(group.count for group in groups)
        values["letters"] = [(masked(letter), _page_of_job(letter)) for letter in page]
        values["next"] = as_query(filter_, cursor=cursor) if cursor else None
        return values

    async def export(self, request: Request) -> Response:
        """The letters that match the filter, without bodies, at most `MOST_EXPORTED`. Later failures are excluded."""
        form = request.query_params.get("format", "jsonl")
        if form not in _MEDIA_TYPES:
            raise Problem(422, "validation", "Formats: jsonl, csv.")
        found = await self.letters.preview(read_letters(request, request.query_params))
        lines = _csv_lines(self.letters.each(found.filter)) if form == "csv" else _json_lines(self.letters.each(found.filter))
        headers = {"Content-Disposition": f'attachment; filename="dead-letters.{form}"'}
        return StreamingResponse(_first(lines, MOST_EXPORTED), 200, headers, _MEDIA_TYPES[form])


def _values(filter_: Filter, query: Mapping[str, str]) -> dict[str, Any]:
    """The values of the page while nothing matches."""
    return {
        "kinds": list(Kind),
        "fields": dict.fromkeys(LetterQuery.model_fields, "") | dict(query) | as_fields(filter_),
        "filtered": bool(as_fields(filter_)),
        "query": as_query(filter_),
        "problem": None,
        "groups": [],
        "total": 0,
        "limit": COUNT_LIMIT,
        "letters": [],
        "next": None,
        "most_exported": MOST_EXPORTED,
    }


def _query_of(filter_: Filter, group: Group) -> str | None:
    """The query of one of its groups; None without a reason, because a filter without one matches every reason."""
    if not group.reason:
        return None
    return as_query(replace(filter_, kind=group.kind, provider=group.provider, status=group.status, reason=group.reason))


def _page_of_job(letter: DeadLetter) -> str | None:
    """The console's page of a job. Callbacks have none."""
    return None if letter.kind is Kind.CALLBACK else f"/console/{letter.kind}s/{letter.id}"


def masked(letter: DeadLetter) -> DeadLetter:
    """The letter as the console shows it. The URL of the operator may contain a secret, as the page of settings knows."""
    if letter.client_id != OPERATOR or letter.destination is None:
        return letter
    return replace(letter, destination=masked_url(letter.destination, with_path=False))


async def _json_lines(letters: AsyncIterator[DeadLetter]) -> AsyncIterator[bytes]:
    async for letter in letters:
        yield orjson.dumps(asdict(masked(letter)), option=orjson.OPT_APPEND_NEWLINE)


async def _csv_lines(letters: AsyncIterator[DeadLetter]) -> AsyncIterator[bytes]:
    yield _csv_line(_COLUMNS)
    async for letter in letters:
        yield _csv_line([_cell(value) for value in asdict(masked(letter)).values()])


def _csv_line(cells: list[str]) -> bytes:
    """One line as RFC 4180 has it."""
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode().strip('"')


async def _first(lines: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """At most `most` lines, joined into larger chunks."""
    chunk, count = bytearray(), 0
    async for line in lines:
        chunk += line
        count += 1
        if len(chunk) > 64 * 1024:
            yield bytes(chunk)
            chunk.clear()
        if count == most:
            break
    yield bytes(chunk)
