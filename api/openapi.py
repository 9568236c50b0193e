"""The OpenAPI 3.1 document, generated from operations, request models and answer shapes. schemathesis holds answers to it."""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from api import models, shapes
from api.operations import OPERATIONS, Operation

Schema = dict[str, Any]
REF = "#/components/schemas/{model}"


def _text(description: str, **schema: object) -> Schema:
    return {"description": description, "schema": {"type": "string", **schema}}


_HEADERS: dict[str, Schema] = {
    "Idempotency-Key": _text(
        "1 to 255 visible ASCII characters. A repeated request with the same key creates no second job.",
        format="idempotency-key",
    ),
    "Prefer": _text("`wait=N`: wait up to N seconds (at most 60) for a newer version (RFC 7240).", examples=["wait=1"]),
    "If-None-Match": _text("The newest ETag that the client has.", examples=['"2"']),
    "Last-Event-ID": _text("The newest version that the client has received."),
    "Location": _text("The job's URL."),
    "Idempotent-Replayed": _text("`true`: a request with this key was accepted before.", const="true"),
    "ETag": _text("The job's version.", pattern='^"[0-9]+"$'),
    "Preference-Applied": _text("The longest wait that the API applied."),
    "Retry-After": _text("Seconds before the next request.", pattern="^[0-9]+$"),
    "RateLimit-Policy": _text("The rate limit."),
    "RateLimit": _text("The remainder of the rate limit."),
    "WWW-Authenticate": _text("The authentication scheme."),
    "X-Request-ID": _text("The request's id in logs and problems."),
}
_ALWAYS = ("X-Request-ID", "Retry-After", "WWW-Authenticate", "Location", "ETag")
_ID = _text("A canonical UUIDv7.", format="uuid", examples=["0190163d-8694-739b-aea5-966c26f8ad91"])
# Metadata: any JSON that Postgres and 64 bits can hold.
_PLAIN = "^[^\\u0000]*$"
_ANY = {"$ref": REF.format(model="Json")}
_OBJECT = {"type": "object", "propertyNames": {"pattern": _PLAIN}, "additionalProperties": _ANY}
_JSON = {
    "description": "Any JSON value.",
    "anyOf": [
        {"type": ["null", "boolean"]},
        {"type": "number", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "string", "pattern": _PLAIN},
        {"type": "array", "items": _ANY},
        _OBJECT,
    ],
}
_NARROW = {"enum", "const", "format", "pattern"}  # such a string has no NUL
_PROBLEM_HEADERS = {401: ("WWW-Authenticate",), 429: ("RateLimit-Policy", "RateLimit", "Retry-After"), 503: ("Retry-After",)}
_OF_BROWSERS = (403, 421)  # of every operation, by api.origins
_WHY = {
    400: "The body is not JSON, is nested too deeply, or repeats a field.",
    401: "The request needs a usable key.",
    403: "The key lacks the scope, or a browser sent the request for a page of another site.",
    404: "The resource does not exist or belongs to another client.",
    406: "The Accept header accepts no available media type.",
    408: "The body did not arrive in time.",
    409: "The report has no result.",
    413: "The body is too large.",
    415: "The body is not application/json in UTF-8.",
    421: "The Host header is not one of the API's names.",
    422: "Fields are invalid. The problem names each one.",
    429: "Too many requests.",
    503: "The API cannot process the request now, or its outcome is unknown. Repeat it with the same Idempotency-Key.",
}


def document(version: str, providers: Iterable[str]) -> Schema:
    """The whole document, for an installation with these providers."""
    types = {type_ for op in OPERATIONS for type_ in (op.body, op.query, *op.answers.values()) if isinstance(type_, type)} | {
        shapes.ProblemOut
    }
    _, definitions = TypeAdapter.json_schemas(
        [(type_.__name__, "validation", TypeAdapter(type_)) for type_ in sorted(types, key=lambda type_: type_.__name__)],
        ref_template=REF,
    )
    schemas: Schema = definitions["$defs"]
    _complete(schemas, sorted(providers))
    paths: dict[str, Schema] = {}
    for op in OPERATIONS:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Posthaste",
            "version": version,
            "summary": "Accepts work in milliseconds, never loses it, executes it asynchronously, and reports its status.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "ph_…"}},
        },
    }


def _complete(schemas: Schema, providers: list[str]) -> None:
    """Add the constraints that pydantic does not export."""
    schemas["Json"] = _JSON
    message = schemas["MessageIn"]["properties"]
    plain = r"[^\u0000-\u001f\u007f-\u009f]"
    message["destination"]["pattern"] = rf"^{plain}*[^\s\u0000-\u001f\u007f-\u009f]{plain}*$"
    message["body"] |= {"maxLength": models.MAX_BODY, "pattern": "^[^\\u0000]+$"}
    message["metadata"]["anyOf"] = [_OBJECT, {"type": "null"}]
    message["metadata"]["description"] = f"The client's own JSON: at most {models.MAX_METADATA} bytes, integers of 64 bits."
    for name in ("MessageIn", "DeadLetterRequeue"):
        schemas[name]["properties"]["provider"] = {"anyOf": [{"enum": providers}, {"type": "null"}], "default": None}
    for name in ("MessageIn", "ReportIn"):
        schemas[name]["properties"]["callback_url"]["anyOf"][0]["format"] = "uri"
    schemas["BatchIn"]["properties"]["messages"]["items"] = {
        "description": "A message as in `POST /messages`. An invalid one has a problem in its place."
    }
    schemas["MessageOut"]["properties"]["body"]["description"] = "null: the message was sent, and bodies are not retained"
    of_reports = ["queued", "processing", "retrying", "completed", "failed", "unknown", "discarded"]
    schemas["ReportOut"]["properties"]["status"] = {"type": "string", "enum": of_reports}
    schemas["DeadLetterOut"]["properties"]["status"] = {"type": "string", "enum": ["failed", "unknown"]}
    for name in ("Delivery", "Kind", "Priority"):
        del schemas[name]["description"]  # for developers of Posthaste
    requests = {model.__name__ for op in OPERATIONS for model in (op.body, op.query) if model} | {"DeadLetterFilter"}
    for name, schema in schemas.items():
        if "properties" in schema:
            schema["additionalProperties"] = False
        for choice in _choices(schema):
            if choice.get("format") == "date-time":
                choice["description"] = "RFC 3339; answers are in UTC, with milliseconds"
            elif name in requests and choice.get("type") == "string" and not _NARROW & choice.keys():
                choice["pattern"] = _PLAIN  # Postgres stores no NUL


def _choices(schema: Schema) -> Iterator[Schema]:
    """The schemas of every property: itself, its items, its alternatives."""
    for each in schema.get("properties", {}).values():
        yield from (each, each.get("items", {}), *each.get("anyOf", ()))


def _operation(op: Operation, schemas: Schema) -> Schema:
    responses = {str(status): _answer(status, answer, op) for status, answer in op.answers.items()}
    auth = (401, 429) if op.scope else ()
    for status in sorted({*op.problems, *auth, *_OF_BROWSERS}):
        problem = {"application/problem+json": _ref(shapes.ProblemOut)}
        responses.setdefault(str(status), _response(_WHY[status], _PROBLEM_HEADERS.get(status, ()), problem))
    described: Schema = {
        "operationId": op.name,
        "summary": op.summary,
        "parameters": _parameters(op, schemas),
        "responses": responses,
        "security": [{"key": []}] if op.scope else [],
    }
    if op.scope:
        described["description"] = f"For keys with the scope `{op.scope}`."
    if op.body is not None:
        described["requestBody"] = {"required": op.body_required, "content": {"application/json": {"schema": _ref(op.body)}}}
    return described


def _ref(type_: type) -> Schema:
    return {"$ref": REF.format(model=type_.__name__)}


def _answer(status: int, answer: type | str | None, op: Operation) -> Schema:
    headers = op.answer_headers if status < 300 or status == 304 else ("Retry-After",)
    content: dict[str, Schema] = {}
    if isinstance(answer, str):
        content[answer] = {"type": "string" if answer == "text/html" else "object"}
    elif answer is not None:
        content["application/json"] = _ref(answer)
        if answer is shapes.TotalsOut and op.query is not None:
            content["text/csv"] = {"type": "string"}
    return _response(HTTPStatus(status).phrase, headers, content)


def _response(description: str, headers: Iterable[str], content: dict[str, Schema]) -> Schema:
    described = {name: {**_HEADERS[name], "required": name in _ALWAYS} for name in (*headers, "X-Request-ID")}
    body = {"content": {media_type: {"schema": schema} for media_type, schema in content.items()}} if content else {}
    return {"description": description, "headers": described, **body}


def _parameters(op: Operation, schemas: Schema) -> list[Schema]:
    path = [{"name": "id", "in": "path", "required": True, **_ID}] if "{id}" in op.path else []
    properties = {} if op.query is None else schemas[op.query.__name__]["properties"]
    query = [{"name": name, "in": "query", "required": False, "schema": _plain(each)} for name, each in properties.items()]
    headers = [{"name": name, "in": "header", "required": False, **_HEADERS[name]} for name in op.headers]
    return [*path, *query, *headers]


def _plain(schema: Schema) -> Schema:
    """A parameter's schema without null, which a query string cannot carry."""
    kept = {name: value for name, value in schema.items() if name not in ("default", "title")}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    return {**kept, **(choices[0] if choices else {})}
