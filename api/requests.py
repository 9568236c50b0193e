"""Reading a request: its size, content type, JSON and fields are checked, and every bad field is named."""

import json
from collections import Counter
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from api.problems import FieldError, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_PARAMETERS = 50  # in one query string; the route with the most has eleven
_MAX_LIKES = 100  # media ranges of an Accept header; the others are ignored
_MAX_ERRORS = 50  # named in one problem
_MAX_POINTER = 200  # characters of a client's own field name that are repeated to it

Model = TypeVar("Model", bound=BaseModel)

_CODES = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "string_too_short": "too_short",
    "string_too_long": "too_long",
    "string_unicode": "invalid_unicode",
    "literal_error": "unknown_value",
}


async def read_model(request: Request, model: type[Model]) -> Model:
    """The request's JSON body as a validated model.

    Raises:
        Problem: 400 not JSON or nested too deeply, 413 too large, 415 another content type, 422 naming each bad field.
    """
    return validated(_parse(await _read_body(request)), model)


def validated(fields: Any, model: type[Model]) -> Model:
    """Parsed JSON as a model.

    Raises:
        Problem: 422 naming each bad field.
    """
    if not isinstance(fields, dict):
        raise Problem(422, "validation", "The body must be a JSON object.", errors=[_wrong_type()])
    try:
        return model.model_validate({_printable(name): value for name, value in fields.items()})
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors(include_url=False, include_context=False)]
        names = ", ".join(dict.fromkeys(problem.pointer for problem in problems[:5]))
        raise Problem(422, "validation", f"Not valid: {names}.", errors=problems[:_MAX_ERRORS]) from error


def read_query(request: Request, model: type[Model]) -> Model:
    """The query string as a validated model.

    Raises:
        Problem: 422 naming each bad parameter as `?name`, or `?` where there are too many.
    """
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        errors = [FieldError("?", "too_many", f"has more than {MAX_PARAMETERS} parameters")]
        raise Problem(422, "validation", f"The query string has more than {MAX_PARAMETERS} parameters.", errors=errors)
    given = request.query_params.multi_items()
    twice = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
    errors = [FieldError(f"?{_printable(name)}"[:_MAX_POINTER], "repeated", "is given twice") for name in sorted(twice)]
    try:
        if not errors:
            return model.model_validate(dict(given))
    except ValidationError as error:
        errors = [_explain(item) for item in error.errors(include_url=False, include_context=False)]
        errors = [FieldError("?" + each.pointer[1:], each.code, each.detail) for each in errors]
    raise Problem(
        422, "validation", f"Not valid: {', '.join(each.pointer for each in errors[:5])}.", errors=errors[:_MAX_ERRORS]
    )


def has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def preferred(request: Request, offered: dict[str, str]) -> str:
    """The name of what is offered (by media type) that the Accept header likes best; RFC 9110, section 12.5.1.

    Raises:
        Problem: 406 where it likes none.
    """
    likes = [_liking(part) for part in request.headers.get("accept", "*/*").split(",")[:_MAX_LIKES]]
    best, best_quality = None, 0.0
    for media_type, name in offered.items():
        patterns = (media_type, media_type.split("/")[0] + "/*", "*/*")
        found = next(([q for liked, q in likes if liked == pattern] for pattern in patterns if pattern in dict(likes)), [0.0])
        if max(found) > best_quality:
            best, best_quality = name, max(found)
    if best is None:
        raise Problem(406, "not_acceptable", f"There is: {', '.join(offered)}.")
    return best


def _liking(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
    try:
        return media_type, min(1.0, max(0.0, float(quality)))
    except ValueError:
        return media_type, 0.0


def _wrong_type() -> FieldError:
    return FieldError("", "wrong_type", "must be an object")


async def _read_body(request: Request) -> bytes:
    content_type, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if content_type.strip() != "application/json" or charset not in ("", "utf-8"):
        raise Problem(415, "unsupported_media_type", "Send the header Content-Type: application/json.")
    if "content-encoding" in request.headers:
        raise Problem(415, "unsupported_media_type", "A Content-Encoding is not supported; send the body as it is.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_BYTES:
        raise _too_large()
    body = bytearray()
    async for chunk in request.stream():  # a body that takes too long is given up by `api.request_timeout`
        body += chunk
        if len(body) > MAX_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> Problem:
    # The rest of the body is not read, so the connection cannot be used again.
    return Problem(413, "too_large", f"The body must not exceed {MAX_BYTES} bytes.", headers={"Connection": "close"})


def _parse(body: bytes) -> Any:
    try:
        fields = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unrepeated)
    except UnicodeDecodeError as error:
        raise Problem(400, "malformed_json", f"The body is not UTF-8 (byte {error.start}).") from error
    except RecursionError as error:
        raise _too_deep() from error
    except _Repeated as error:
        raise Problem(400, "repeated_field", f"The field {_printable(str(error))[:_MAX_POINTER]!r} is given twice.") from error
    except json.JSONDecodeError as error:
        raise Problem(400, "malformed_json", f"The body is not JSON: {error}.") from error
    except ValueError as error:  # NaN or Infinity, or an integer of thousands of digits
        raise Problem(400, "malformed_json", "The body is not JSON: a number in it is out of range.") from error
    if _deeper_than(fields, MAX_DEPTH):
        raise _too_deep()
    return fields


class _Repeated(Exception):
    """A field is given twice in one object: which one counts, two readers may see differently."""


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise _Repeated(name)
        fields[name] = value
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _too_deep() -> Problem:
    return Problem(400, "too_deep", f"The body is nested more than {MAX_DEPTH} levels deep.")


def _deeper_than(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper_than(inner, levels - 1) for inner in value)


def _explain(item: Any) -> FieldError:
    kind = item["type"]
    code = _CODES.get(kind, "wrong_type" if kind.endswith(("_type", "_parsing")) else kind)
    detail = "is not a known field" if code == "unknown_field" else item["msg"]
    return FieldError(_pointer(item["loc"]), code, detail)


def _pointer(location: tuple[int | str, ...]) -> str:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)[:_MAX_POINTER]


def _printable(name: str) -> str:
    """A field's name as it can be sent back: a lone surrogate in it is escaped, and so is no known field's name."""
    return name.encode("utf-8", "backslashreplace").decode()
