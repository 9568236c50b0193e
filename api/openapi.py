"""The OpenAPI 3.1 document, made from the models that requests are read by, and one row for each operation.

A test holds the rows to the routes; schemathesis holds the answers to the document.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import models, shapes
from api.operations import OPERATIONS, Operation

REF = "#/components/schemas/{model}"
_ID = "0190163d-8694-739b-aea5-966c26f8ad91"


_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "description": "Your own name for this request, 1 to 255 visible ASCII characters: sent again, it makes no second job.",
        "schema": {"type": "string", "format": "idempotency-key"},
    },
    "Prefer": {
        "description": "`wait=N`: answer when there is news, after N seconds (60 at most) at the latest (RFC 7240).",
        "schema": {"type": "string", "examples": ["wait=1"]},
    },
    "If-None-Match": {
        "description": "The newest ETag that you have: anything newer is news.",
        "schema": {"type": "string", "examples": ['"2"']},
    },
    "Last-Event-ID": {"description": "The newest version that you have been told.", "schema": {"type": "string"}},
    "Location": {"description": "Where to ask what became of it.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {"description": "`true`: accepted before, under the same key.", "schema": {"const": "true"}},
    "ETag": {"description": "The job's version.", "schema": {"type": "string", "pattern": '^"[0-9]+"$'}},
    "Preference-Applied": {"description": "How long an answer was waited for at most.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to ask again.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "RateLimit-Policy": {"description": "Which limit there is.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of it.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to show a key.", "schema": {"type": "string"}},
    "X-Request-ID": {"description": "Names this request in logs and problems.", "schema": {"type": "string"}},
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
_OF_BROWSERS = (403, 421)  # of every operation: api.origins
_WHY = {
    400: "The body is not JSON, is nested too deeply, or says something twice.",
    401: "A usable key is needed.",
    403: "The key lacks the scope, or a browser sent the request for a page of another site.",
    404: "There is nothing here, or it is not yours.",
    406: "No representation is acceptable.",
    408: "The body did not arrive in time.",
    409: "There is no result.",
    413: "The body is too large.",
    415: "The body is not application/json in UTF-8.",
    421: "The Host header names a host that the API does not answer as.",
    422: "Fields are not valid; each is named.",
    429: "Too many requests.",
    503: "Unknown or not now: ask again, under the same Idempotency-Key.",
}


def document(version: str, providers: Iterable[str]) -> dict[str, Any]:
    """The whole document, for an installation with these providers."""
    used = {model for op in OPERATIONS for model in (op.body, op.query, *op.answers.values()) if isinstance(model, type)} | {
        shapes.ProblemOut
    }
    _, definitions = models_json_schema(
        [(model, "validation") for model in sorted(used, key=lambda model: model.__name__)], ref_template=REF
    )
    schemas: dict[str, Any] = definitions["$defs"]
    _narrow(schemas, sorted(providers))
    paths: dict[str, dict[str, Any]] = {}
    for op in OPERATIONS:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Posthaste",
            "version": version,
            "summary": "Accepts work in milliseconds, never loses it, does it later, and says what became of it.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "ph_…"}},
        },
    }


def _narrow(schemas: dict[str, Any], providers: list[str]) -> None:
    """What the models check by code, in the words of JSON Schema."""
    message = schemas["MessageIn"]["properties"]
    plain = r"[^\u0000-\u001f\u007f-\u009f]"
    message["destination"]["pattern"] = rf"^{plain}*[^\s\u0000-\u001f\u007f-\u009f]{plain}*$"
    message["body"] |= {"maxLength": models.MAX_BODY, "pattern": "^[^\\u0000]+$"}
    for name in ("MessageIn", "DeadLetterRequeue"):
        schemas[name]["properties"]["provider"] = {"anyOf": [{"enum": providers}, {"type": "null"}], "default": None}
    schemas["Json"] = _JSON
    message["metadata"]["anyOf"] = [_OBJECT, {"type": "null"}]
    message["metadata"]["description"] = f"Yours: at most {models.MAX_METADATA} bytes as JSON, integers of 64 bits."
    for name in ("MessageIn", "ReportIn"):
        schemas[name]["properties"]["callback_url"]["anyOf"][0]["format"] = "uri"
    read: set[type[BaseModel]] = {model for op in OPERATIONS for model in (op.body, op.query) if model is not None}
    read.add(models.DeadLetterFilter)
    for model in read:
        for schema in schemas[model.__name__]["properties"].values():
            for choice in (schema, schema.get("items", {}), *schema.get("anyOf", ())):
                if choice.get("type") == "string" and not {"enum", "const", "format", "pattern"} & choice.keys():
                    choice["pattern"] = _PLAIN
    schemas["BatchIn"]["properties"]["messages"]["items"] = {
        "description": "Each a message, as `POST /messages` takes it; what is wrong with one is said in its place."
    }


def _operation(op: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    responses = {str(status): _answer(status, answer, op) for status, answer in op.answers.items()}
    auth = (401, 429) if op.scope else ()
    for status in sorted({*op.problems, *auth, *_OF_BROWSERS}):
        responses.setdefault(str(status), _problem(status))
    said: dict[str, Any] = {
        "operationId": op.name,
        "summary": op.summary,
        "parameters": [*_path_parameters(op), *_query_parameters(op, schemas), *(_header(name) for name in op.headers)],
        "responses": responses,
        "security": [{"key": []}] if op.scope else [],
    }
    if op.scope:
        said["description"] = f"For keys with the scope `{op.scope}`."
    if op.body is not None:
        content = {"application/json": {"schema": {"$ref": REF.format(model=op.body.__name__)}}}
        said["requestBody"] = {"required": op.body_required, "content": content}
    return said


def _answer(status: int, answer: type[BaseModel] | str | None, op: Operation) -> dict[str, Any]:
    gives = op.gives if status < 300 or status == 304 else ("Retry-After",)
    said: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": _given((*gives, "X-Request-ID"))}
    if isinstance(answer, str):
        said["content"] = {answer: {"schema": {"type": "string" if answer == "text/html" else "object"}}}
    elif answer is not None:
        said["content"] = {"application/json": {"schema": {"$ref": REF.format(model=answer.__name__)}}}
        if answer is shapes.TotalsOut and op.query is not None:
            said["content"]["text/csv"] = {"schema": {"type": "string"}}
    return said


def _problem(status: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": REF.format(model="ProblemOut")}}}
    headers = _given((*_PROBLEM_HEADERS.get(status, ()), "X-Request-ID"))
    return {"description": _WHY[status], "headers": headers, "content": content}


def _given(names: Iterable[str]) -> dict[str, Any]:
    always = ("X-Request-ID", "Retry-After", "WWW-Authenticate", "Location", "ETag")
    return {name: {**_HEADERS[name], "required": name in always} for name in names}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, **_HEADERS[name]}


def _path_parameters(op: Operation) -> list[dict[str, Any]]:
    if "{id}" not in op.path:
        return []
    schema = {"type": "string", "format": "uuid", "examples": [_ID]}
    return [{"name": "id", "in": "path", "required": True, "description": "A canonical UUIDv7.", "schema": schema}]


def _query_parameters(op: Operation, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if op.query is None:
        return []
    properties = schemas[op.query.__name__]["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": _plain(schema)} for name, schema in properties.items()]


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema: one that is not given is not null."""
    kept = {name: value for name, value in schema.items() if name not in ("default", "title")}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    return {**kept, **(choices[0] if choices else {})}
