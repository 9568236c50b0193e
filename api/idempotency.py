"""The `Idempotency-Key` header: a repeated request gets the first one's answer and creates no second job.

It follows draft-ietf-httpapi-idempotency-key-header. A key belongs to one client and route, for one day.
"""

import hashlib
import re

import orjson
from pydantic import BaseModel
from starlette.requests import Request

from api.problems import invalid
from api.shapes import FieldProblem
from jobs.model import IdempotencyKey

_HEADER = "Idempotency-Key"
_VISIBLE_ASCII = re.compile(r"[!-~]{1,255}")


def idempotency_key(request: Request, request_body: BaseModel, index: int | None = None) -> IdempotencyKey | None:
    """The key of this request, or of its item `index`; None without the header. Raises as `read_key`."""
    key = read_key(request)
    if key is None:
        return None
    route = request.url.path if index is None else f"{request.url.path}#{index}"
    # The fingerprint omits defaults: a release that adds a field still recognises a repeated request.
    canonical = orjson.dumps(request_body.model_dump(exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
    return IdempotencyKey(route, key, hashlib.sha256(canonical).hexdigest())


def read_key(request: Request) -> str | None:
    """The header's value; None without it.

    Raises:
        Problem: 422, the header is repeated or is not 1 to 255 visible ASCII characters.
    """
    values = request.headers.getlist(_HEADER)
    if len(values) > 1:
        raise invalid(FieldProblem(_HEADER, "repeated", "is repeated"))
    if values and not _VISIBLE_ASCII.fullmatch(values[0]):
        raise invalid(FieldProblem(_HEADER, "wrong_format", "must be 1 to 255 visible ASCII characters"))
    return values[0] if values else None


def replay_header(replayed: bool) -> dict[str, str]:
    """The header that marks the answer of a repeated request."""
    return {"Idempotent-Replayed": "true"} if replayed else {}
