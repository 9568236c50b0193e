"""Parts of answers that all kinds of job share: the id in the path, JSON with instants, pages and their cursors."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import orjson
from starlette.convertors import UUIDConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from api.problems import invalid
from api.shapes import FieldProblem

Key = TypeVar("Key")
Row = TypeVar("Row")
READ_SECONDS = 0.8


# A canonical lower-case UUIDv7. No other string can be an id, so it is a 404.
JOB_ID = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


class _JobId(UUIDConvertor):
    """`{id:job}` in a path."""

    regex = JOB_ID


register_url_convertor("job", _JobId())


def job_id(request: Request) -> UUID:
    """The id in the path."""
    id_: UUID = request.path_params["id"]
    return id_


def as_json(content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = orjson.dumps(content, _instant, orjson.OPT_PASSTHROUGH_DATETIME)
    return Response(body, status, headers, media_type="application/json")


def _instant(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds. Sessions of Postgres are in UTC."""
    return value.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"  # a fifth of the time of strftime


def page_of(rows: Sequence[Row], limit: int, key: Callable[[Row], object]) -> tuple[Sequence[Row], str | None]:
    """The rows of a page, and the cursor of the next page. A row beyond `limit` shows that there is one."""
    page = rows[:limit]
    return page, cursor_for(str(key(page[-1]))) if len(rows) > limit else None


def cursor_for(key: str) -> str:
    """The opaque cursor of the page after `key`."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def from_cursor(cursor: str | None, parse: Callable[[str], Key], first: Key) -> Key:
    """The key in a cursor; `first` without one. Raises a 422 problem if `cursor_for` did not create it."""
    if cursor is None:
        return first
    try:
        return parse(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode())
    except (ValueError, binascii.Error) as error:
        raise invalid(FieldProblem("?cursor", "unknown_value", "is not a cursor of this list")) from error
