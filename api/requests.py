"""Reads and validates requests: size, content type, JSON and fields. The problem names every invalid field."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from api.problems import Problem, invalid
from api.shapes import FieldProblem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_PARAMETERS = 50  # in one query string; no operation has more than eleven
_MAX_MEDIA_RANGES = 100  # of an Accept header; the others are ignored
_MAX_POINTER = 200  # characters of a client's field name in an answer

Model = TypeVar("Model", bound=BaseModel)
Choice = TypeVar("Choice")

_CODES = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "string_too_short": "too_short",
    "string_too_long": "too_long",
    "string_unicode": "invalid_unicode",
    "literal_error": "unknown_value",
    "enum": "unknown_value",
}


async def read_model(request: Request, model: type[Model]) -> Model:
    """The JSON body as a model. Problems: 400 not JSON or too deep, 413 too large, 415 another type, 422 as `validated`."""
    return validated(_parse(await _read_body(request)), model)


def validated(fields: object, model: type[Model]) -> Model:
    """Parsed JSON as a model. Raises a 422 problem that names each invalid field."""
    if not isinstance(fields, dict):
        wrong_type = FieldProblem("", "wrong_type", "must be an object")
        raise Problem(422, "validation", "The body must be a JSON object.", errors=[wrong_type])
    try:
        return model.model_validate({_printable(name): value for name, value in fields.items()})
    except ValidationError as error:
        raise invalid(*_field_problems(error)) from error


def read_query(request: Request, model: type[Model]) -> Model:
    """The query string as a model. Raises a 422 problem that names each invalid parameter as `?name`, too many as `?`."""
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        too_many = FieldProblem("?", "too_many", f"has more than {MAX_PARAMETERS} parameters")
        raise Problem(422, "validation", f"The query string has more than {MAX_PARAMETERS} parameters.", errors=[too_many])
    parameters = request.query_params.multi_items()
    repeated = sorted(name for name, count in Counter(name for name, _ in parameters).items() if count > 1)
    if repeated:
        raise invalid(*(FieldProblem(f"?{_printable(name)}"[:_MAX_POINTER], "repeated", "is repeated") for name in repeated))
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        raise invalid(*(replace(each, pointer=f"?{each.pointer[1:]}") for each in _field_problems(error))) from error


def require_provider(name: str, providers: Collection[str]) -> None:
    """Raise a 422 problem unless this provider of a request body is configured."""
    if name not in providers:
        raise invalid(FieldProblem("/provider", "unknown_provider", f"must be one of: {', '.join(sorted(providers))}"))


def has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def preferred(request: Request, offered: Mapping[str, Choice]) -> Choice:
    """The choice whose media type the Accept header prefers (RFC 9110, section 12.5.1). The first one wins a tie.

    Parameters of media ranges are ignored. Raises a 406 problem if the header accepts none.
    """
    ranges = parse_accept_header(",".join(request.headers.get("accept", "*/*").split(",")[:_MAX_MEDIA_RANGES]))
    accepted = MIMEAccept([(media_type.partition(";")[0], quality) for media_type, quality in ranges])
    best = max(offered, key=accepted.quality)
    if accepted.quality(best) == 0:
        raise Problem(406, "not_acceptable", f"Acceptable media types: {', '.join(offered)}.")
    return offered[best]


async def _read_body(request: Request) -> bytes:
    headers = dict(reversed(request.scope["headers"]))  # the first of repeated ones
    content_type, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'"')
    if content_type.strip() != b"application/json" or charset not in (b"", b"utf-8"):
        raise Problem(415, "unsupported_media_type", "Send the header Content-Type: application/json.")
    if b"content-encoding" in headers:
        raise Problem(415, "unsupported_media_type", "Content-Encoding is not supported. Send the body without it.")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > MAX_BYTES:
        raise _too_large()
    body, complete = bytearray(), False
    while not complete:  # `api.request_timeout` ends slow bodies
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        complete = not message.get("more_body", False)
        if len(body) > MAX_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> Problem:
    # The rest of the body remains unread, so the connection is unusable.
    return Problem(413, "too_large", f"The body must not exceed {MAX_BYTES} bytes.", headers={"Connection": "close"})


def _parse(body: bytes) -> object:
    try:
        fields = _JSON.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Problem(400, "malformed_json", f"The body is not UTF-8 (byte {error.start}).") from error
    except RecursionError as error:
        raise _too_deep() from error
    except _RepeatedField as error:
        raise Problem(400, "repeated_field", f"The field {_printable(str(error))[:_MAX_POINTER]!r} is repeated.") from error
    except json.JSONDecodeError as error:
        raise Problem(400, "malformed_json", f"The body is not JSON: {error}.") from error
    except ValueError as error:  # NaN or Infinity, or an integer of thousands of digits
        raise Problem(400, "malformed_json", "The body is not JSON: a number is out of range.") from error
    if _deeper_than(fields, MAX_DEPTH):
        raise _too_deep()
    return fields


def _too_deep() -> Problem:
    return Problem(400, "too_deep", f"The body is nested more than {MAX_DEPTH} levels deep.")


class _RepeatedField(Exception):
    """An object repeats a field. Parsers disagree about which value counts."""


def _unique_fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise _RepeatedField(name)
        fields[name] = value
    return fields


# One decoder, because its making takes as long as a short body. `int` raises ValueError for NaN and Infinity.
_JSON = json.JSONDecoder(parse_constant=int, object_pairs_hook=_unique_fields)


def _deeper_than(value: object, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(child, levels - 1) for child in children)


def _field_problems(error: ValidationError) -> Iterator[FieldProblem]:
    for details in error.errors(include_url=False, include_context=False):
        kind = details["type"]
        code = _CODES.get(kind, "wrong_type" if kind.endswith(("_type", "_parsing")) else kind)
        detail = "is not a known field" if code == "unknown_field" else details["msg"]
        yield FieldProblem(_pointer(details["loc"]), code, detail)


def _pointer(location: tuple[int | str, ...]) -> str:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)[:_MAX_POINTER]


def _printable(name: str) -> str:
    """A field's name with lone surrogates escaped: JSON cannot carry them, and no known field has one."""
    return name.encode("utf-8", "backslashreplace").decode()
