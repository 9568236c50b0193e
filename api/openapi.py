"""The OpenAPI 3.1 document, generated from the operations, their request models and their answer shapes.

schemathesis compares the answers with the document.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from api import models, shapes
from api.operations import OPERATIONS, Operation

Schema = dict[str, Any]
REF = "#/components/schemas/{model}"
_ID = "0190163d-8694-739b-aea5-966c26f8ad91"


_HEADERS: dict[str, Schema] = {
    "Idempotency-Key": {
        "description": "1 to 255 visible ASCII characters. A repeated request with the same key creates no second job.",
        "schema": {"type": "string", "format": "idempotency-key"},
    },
    "Prefer": {
        "description": "`wait=N`: wait up to N seconds (at most 60) for a newer version (RFC 7240).",
        "schema": {"type": "string", "examples": ["wait=1"]},
    },
    "If-None-Match": {
        "description": "The newest ETag that the client has.",
        "schema": {"type": "string", "examples": ['"2"']},
    },
    "Last-Event-ID": {"description": "The newest version that the client has received.", "schema": {"type": "string"}},
    "Location": {"description": "The job's URL.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true`: a request with this key was accepted before.",
        "schema": {"const": "true"},
    },
    "ETag": {"description": "The job's version.", "schema": {"type": "string", "pattern": '^"[0-9]+"$'}},
    "Preference-Applied": {"description": "The longest wait that the API applied.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds before the next request.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "RateLimit-Policy": {"description": "The rate limit.", "schema": {"type": "string"}},
    "RateLimit": {"description": "The remainder of the rate limit.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "The authentication scheme.", "schema": {"type": "string"}},
    "X-Request-ID": {"description": "The request's id in logs and problems.", "schema": {"type": "string"}},
}
# Metadata: any JSON that Postgres and 64 bits can hold.
_PLAIN = "^[^\\u0000]*$"
_OBJECT = {
    "type": "object",
    "propertyNames": {"pattern": _PLAIN},
    "additionalProperties": {"$ref": REF.format(model="Json")},
}
_JSON = {
    "description": "Any JSON value.",
    "anyOf": [
        {"type": ["null", "boolean"]},
        {"type": "number", "minimum": -(2**63), "maximum": 2**63 - 1},
        {"type": "string", "pattern": _PLAIN},
        {"type": "array", "items": {"$ref": REF.format(model="Json")}},
        _OBJECT,
    ],
}
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
    for schema in schemas.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
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
    _exclude_nul(schemas)


def _exclude_nul(schemas: Schema) -> None:
    """Postgres stores no NUL, so no request may contain one."""
    requests = {model.__name__ for op in OPERATIONS for model in (op.body, op.query) if model is not None}
    for name in requests | {models.DeadLetterFilter.__name__}:
        for schema in schemas[name]["properties"].values():
            for choice in (schema, schema.get("items", {}), *schema.get("anyOf", ())):
                if choice.get("type") == "string" and not {"enum", "const", "format", "pattern"} & choice.keys():
                    choice["pattern"] = _PLAIN


def _operation(op: Operation, schemas: Schema) -> Schema:
    responses = {str(status): _answer(status, answer, op) for status, answer in op.answers.items()}
    auth = (401, 429) if op.scope else ()
    for status in sorted({*op.problems, *auth, *_OF_BROWSERS}):
        responses.setdefault(str(status), _problem(status))
    described: Schema = {
        "operationId": op.name,
        "summary": op.summary,
        "parameters": [*_path_parameters(op), *_query_parameters(op, schemas), *(_header(name) for name in op.headers)],
        "responses": responses,
        "security": [{"key": []}] if op.scope else [],
    }
    if op.scope:
        described["description"] = f"For keys with the scope `{op.scope}`."
    if op.body is not None:
        content = {"application/json": {"schema": {"$ref": REF.format(model=op.body.__name__)}}}
        described["requestBody"] = {"required": op.body_required, "content": content}
    return described


def _answer(status: int, answer: type | str | None, op: Operation) -> Schema:
    headers = op.answer_headers if status < 300 or status == 304 else ("Retry-After",)
    described: Schema = {"description": HTTPStatus(status).phrase, "headers": _headers((*headers, "X-Request-ID"))}
    if isinstance(answer, str):
        described["content"] = {answer: {"schema": {"type": "string" if answer == "text/html" else "object"}}}
    elif answer is not None:
        described["content"] = {"application/json": {"schema": {"$ref": REF.format(model=answer.__name__)}}}
        if answer is shapes.TotalsOut and op.query is not None:
            described["content"]["text/csv"] = {"schema": {"type": "string"}}
    return described


def _problem(status: int) -> Schema:
    content = {"application/problem+json": {"schema": {"$ref": REF.format(model="ProblemOut")}}}
    headers = _headers((*_PROBLEM_HEADERS.get(status, ()), "X-Request-ID"))
    return {"description": _WHY[status], "headers": headers, "content": content}


def _headers(names: Iterable[str]) -> Schema:
    always = ("X-Request-ID", "Retry-After", "WWW-Authenticate", "Location", "ETag")
    return {name: {**_HEADERS[name], "required": name in always} for name in names}


def _header(name: str) -> Schema:
    return {"name": name, "in": "header", "required": False, **_HEADERS[name]}


def _path_parameters(op: Operation) -> list[Schema]:
    if "{id}" not in op.path:
        return []
    schema = {"type": "string", "format": "uuid", "examples": [_ID]}
    return [{"name": "id", "in": "path", "required": True, "description": "A canonical UUIDv7.", "schema": schema}]


def _query_parameters(op: Operation, schemas: Schema) -> list[Schema]:
    if op.query is None:
        return []
    properties = schemas[op.query.__name__]["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": _plain(schema)} for name, schema in properties.items()]


def _plain(schema: Schema) -> Schema:
    """A parameter's schema without null, which a query string cannot carry."""
    kept = {name: value for name, value in schema.items() if name not in ("default", "title")}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    return {**kept, **(choices[0] if choices else {})}
