"""A report's totals as JSON or CSV (RFC 4180): one page, or all of them as a stream."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Literal
from uuid import UUID

import orjson
from starlette.responses import Response, StreamingResponse

from api.answers import as_json, page_of
from api.shapes import TotalOut, TotalsOut

Rows = list[tuple[int, int]]  # user id, total words
Format = Literal["json", "csv"]
FORMATS: Mapping[str, Format] = {"application/json": "json", "text/csv": "csv"}
FIRST = -(2**31) - 1  # below every user id, which is a Postgres integer
_MEDIA_TYPES = {"json": "application/json", "csv": "text/csv; charset=utf-8; header=present"}
_CSV_HEADER = "user_id,total_words\r\n"


def user_id(text: str) -> int:
    """A user id in a cursor.

    Raises:
        ValueError: no id.
    """
    number = int(text)
    if not FIRST < number < 2**31:
        raise ValueError(text)
    return number


def page(form: Format, id_: UUID, path: str, rows: Rows, limit: int) -> Response:
    """One page. A row beyond `limit` shows that there is a next one."""
    totals, cursor = page_of(rows, limit, lambda row: row[0])
    headers = _headers(form, id_)
    if cursor is not None:
        headers["Link"] = f'<{path}?format={form}&limit={limit}&cursor={cursor}>; rel="next"'
    if form == "csv":
        return Response(_CSV_HEADER + _csv(totals), 200, headers, _MEDIA_TYPES[form])
    answer: TotalsOut = {"data": [_total(row) for row in totals], "next_cursor": cursor}
    return as_json(answer, headers=headers)


def whole(form: Format, id_: UUID, rows: Rows, limit: int, read: Callable[[int], Awaitable[Rows]]) -> Response:
    """All totals, page by page. `rows` is the first page: a failure of its read is still a problem answer."""

    async def pages() -> AsyncIterator[Rows]:
        following = rows
        while following:
            yield following[:limit]
            following = await read(following[limit - 1][0]) if len(following) > limit else []

    return StreamingResponse(_encode(form, pages()), 200, _headers(form, id_), _MEDIA_TYPES[form])


async def _encode(form: Format, pages: AsyncIterator[Rows]) -> AsyncIterator[bytes]:
    yield _CSV_HEADER.encode() if form == "csv" else b'{"data":['
    separator = b""
    async for rows in pages:
        if form == "csv":
            yield _csv(rows).encode()
        else:
            yield separator + orjson.dumps([_total(row) for row in rows])[1:-1]
            separator = b","
    if form == "json":
        yield b"]}"


def _headers(form: Format, id_: UUID) -> dict[str, str]:
    return {"Vary": "Accept"} | ({"Content-Disposition": f'attachment; filename="report-{id_}.csv"'} if form == "csv" else {})


def _total(row: tuple[int, int]) -> TotalOut:
    return {"user_id": row[0], "total_words": row[1]}


def _csv(rows: Sequence[tuple[int, int]]) -> str:
    return "".join(f"{user_id},{total_words}\r\n" for user_id, total_words in rows)
