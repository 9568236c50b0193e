"""The `Idempotency-Key` header: a request sent again under its key is answered as it was, and makes no second job.

After draft-ietf-httpapi-idempotency-key-header. A key belongs to one client and route, for a day.
"""

import hashlib
import re

import orjson
from pydantic import BaseModel
from starlette.requests import Request

from api.problems import FieldError, Problem
from jobs.model import IdempotencyKey

_HEADER = "Idempotency-Key"
_PLAIN = re.compile(r"[!-~]{1,255}")  # visible ASCII


def idempotency_key(request: Request, request_body: BaseModel, index: int | None = None) -> IdempotencyKey | None:
    """The key of this request, or of its item `index`; None without the header. Raises as `read_key`."""
    key = read_key(request)
    if key is None:
        return None
    route = request.url.path if index is None else f"{request.url.path}#{index}"
    # What is not said is not part of it: so a release that knows another field does not take a request sent again for another.
    canonical = orjson.dumps(request_body.model_dump(exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
    return IdempotencyKey(route, key, hashlib.sha256(canonical).hexdigest())


def read_key(request: Request) -> str | None:
    """The header's value; None without it.

    Raises:
        Problem: 422, it is given twice or is not 1 to 255 visible ASCII characters.
    """
    values = request.headers.getlist(_HEADER)
    if not values:
        return None
    if len(values) > 1 or not _PLAIN.fullmatch(values[0]):
        detail = "is given twice" if len(values) > 1 else "must be 1 to 255 visible ASCII characters"
        error = FieldError(_HEADER, "repeated" if len(values) > 1 else "wrong_format", detail)
        raise Problem(422, "validation", f"Not valid: {_HEADER}.", errors=[error])
    return values[0]


def key_reused() -> Problem:
    return Problem(422, "idempotency_key_reused", f"This {_HEADER} was used before, for another request; nothing was accepted.")


def replay_header(replayed: bool) -> dict[str, str]:
    """What tells a client that its request had been accepted before."""
    return {"Idempotent-Replayed": "true"} if replayed else {}
