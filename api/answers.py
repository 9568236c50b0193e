"""What the routes of every kind of job share: the id in the path, the status, and how values are written."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from api.callers import client_of
from api.problems import FieldError, Problem, not_found
from jobs.model import Kind

Key = TypeVar("Key")
READ_SECONDS = 0.8


class _JobId(Convertor[UUID]):
    """`{id:job}` in a path: only a canonical lower-case UUIDv7 can be there at all; every other string is a 404."""

    regex = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"

    def convert(self, value: str) -> UUID:
        return UUID(value)

    def to_string(self, value: UUID) -> str:
        return str(value)


register_url_convertor("job", _JobId())


def job_id(request: Request) -> UUID:
    """The id in the path."""
    id_: UUID = request.path_params["id"]
    return id_


def instant(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"


def as_json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


Look = Callable[[UUID, str, Kind, float], Awaitable[Sequence[Any] | None]]


async def rows_answer(look: Look, kind: Kind, request: Request) -> Response:
    """`{"data": [row, …]}`: what belongs to the job in the path, oldest first.

    Raises:
        Problem: 404 where there is no such job of this kind and client, 503 without the database.
    """
    rows = await look(job_id(request), client_of(request), kind, READ_SECONDS)
    if rows is None:
        raise not_found()
    return as_json({"data": [presentable(asdict(each)) for each in rows]})


def presentable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A record's fields with their instants as text."""
    return {name: instant(value) if isinstance(value, datetime) else value for name, value in fields.items()}


def cursor_for(key: str) -> str:
    """The opaque cursor of the page behind `key`."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def from_cursor(cursor: str, kind: Callable[[str], Key]) -> Key:
    """The key in a cursor.

    Raises:
        Problem: 422, it is none that `cursor_for` gave.
    """
    try:
        return kind(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode())
    except (ValueError, binascii.Error) as error:
        problem = FieldError("?cursor", "unknown_value", "is not a cursor that this list gave")
        raise Problem(422, "validation", "Not valid: ?cursor.", errors=[problem]) from error
