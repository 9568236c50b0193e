"""The OpenAPI 3.1 document, generated from operations, request models and answer shapes. schemathesis holds answers to it."""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from api import models, shapes
from api.descriptions import EXAMPLES, FIELDS, HEADERS, ID, NAME, REPORT_ID, problems_of
from api.operations import OPERATIONS, Operation

Schema = dict[str, Any]
REF = "#/components/schemas/{model}"
_ALWAYS = ("X-Request-ID", "Retry-After", "WWW-Authenticate", "Location", "ETag")
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
_TYPES = {"application/json": {"type": "object"}, "text/csv": {"type": "string"}, "text/html": {"type": "string"}}  # others: {}
_NARROW = {"enum", "const", "format", "pattern"}  # such a string has no NUL
_OF_NOT_MODIFIED = ("ETag", "Preference-Applied")
_PROBLEM_HEADERS = {401: ("WWW-Authenticate",), 429: ("RateLimit-Policy", "RateLimit", "Retry-After"), 503: ("Retry-After",)}


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
    for name in ("MessageIn", "DeadLetterRequeue"):
        schemas[name]["properties"]["provider"] = {"anyOf": [{"enum": providers}, {"type": "null"}], "default": None}
    for name in ("MessageIn", "ReportIn"):
        schemas[name]["properties"]["callback_url"]["anyOf"][0]["format"] = "uri"
    del schemas["ScheduleIn"]["properties"]["report"]["default"]  # it has the defaults of its fields
    of_reports = ["queued", "processing", "retrying", "completed", "failed", "unknown", "discarded"]
    schemas["ReportOut"]["properties"]["status"] = {"type": "string", "enum": of_reports}
    schemas["ResultSummary"]["properties"]["snapshot_at"]["format"] = "date-time"
    schemas["DeadLetterOut"]["properties"]["status"] = {"type": "string", "enum": ["failed", "unknown"]}
    for name in ("Delivery", "Kind", "Priority"):
        del schemas[name]["description"]  # for developers of Posthaste
    requests = {model.__name__: model for op in OPERATIONS for model in (op.body, op.query) if model}
    for name, model in requests.items():
        extra: Any = model.model_config["json_schema_extra"]
        schemas[name]["examples"] = extra["examples"]  # in their order: pydantic sorts their fields
    requests["DeadLetterFilter"] = models.DeadLetterFilter
    for name, schema in schemas.items():
        if "properties" in schema:
            schema["additionalProperties"] = False
        for field, described in schema.get("properties", {}).items():
            meaning, example = FIELDS.get(f"{name}.{field}") or FIELDS[field]
            described["description"] = meaning
            if name not in requests and example is not None:
                described["examples"] = [example]
        for choice in _choices(schema):
            if name in requests and choice.get("type") == "string" and not _NARROW & choice.keys():
                choice["pattern"] = _PLAIN  # Postgres stores no NUL


def _choices(schema: Schema) -> Iterator[Schema]:
    """The schemas of every property: itself, its items, its alternatives."""
    for each in schema.get("properties", {}).values():
        yield from (each, each.get("items", {}), *each.get("anyOf", ()))


def _operation(op: Operation, schemas: Schema) -> Schema:
    responses = {str(status): _answer(status, answer, op, schemas) for status, answer in op.answers.items()}
    for status, meanings in problems_of(op).items():
        responses.setdefault(str(status), _problem(status, meanings))
    described: Schema = {
        "operationId": op.name,
        "summary": op.summary,
        "tags": [op.tag],
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


def _problem(status: int, meanings: dict[str, str]) -> Schema:
    """The problems of an operation with this status. A client can rely on their codes."""
    schema = {**_ref(shapes.ProblemOut), "properties": {"code": {"enum": list(meanings)}}}
    description = " ".join(f"`{code}`: {meaning}" for code, meaning in meanings.items())
    return _response(description, _PROBLEM_HEADERS.get(status, ()), {"application/problem+json": {"schema": schema}})


def _answer(status: int, answer: type | str | None, op: Operation, schemas: Schema) -> Schema:
    headers = op.answer_headers if status < 400 else ("Retry-After",)
    headers = tuple(name for name in headers if status != 304 or name in _OF_NOT_MODIFIED)
    content: dict[str, Schema] = {}
    if isinstance(answer, str):
        content[answer] = {"schema": _TYPES.get(answer, {})}
    elif answer is not None:
        content["application/json"] = {"schema": _ref(answer), "example": _example(_ref(answer), schemas)}
        content |= {media_type: {"schema": _TYPES.get(media_type, {})} for media_type in op.media_types}
    own_example = EXAMPLES.get(f"{op.method} {op.path} {status}")  # of the first media type
    for media_type, described in content.items():
        example = EXAMPLES.get(media_type) if own_example is None else own_example if media_type not in op.media_types else None
        described |= {} if example is None else {"example": example}
    own = {name: HEADERS[f"{op.name}.{name}"] for name in headers if f"{op.name}.{name}" in HEADERS}
    return _response(HTTPStatus(status).phrase, headers, content, own)


def _example(schema: Schema, schemas: Schema) -> Any:
    """An answer of this shape, by the examples of its fields. It has no optional fields."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return EXAMPLES.get(name) or _example(schemas[name], schemas)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], schemas) if "$ref" in schema["anyOf"][0] else None
    if schema.get("type") == "array":
        return [_example(schema["items"], schemas)]
    return {name: _example(each, schemas) for name, each in schema["properties"].items() if name in schema["required"]}


def _response(description: str, headers: Iterable[str], content: Schema, own: Schema | None = None) -> Schema:
    meanings = HEADERS | (own or {})
    described = {name: {**meanings[name], "required": name in _ALWAYS} for name in (*headers, "X-Request-ID")}
    return {"description": description, "headers": described, **({"content": content} if content else {})}


def _parameters(op: Operation, schemas: Schema) -> list[Schema]:
    id_ = REPORT_ID if op.tag == "Reports" else ID
    named = {name: each for name, each in {"id": id_, "name": NAME}.items() if f"{{{name}}}" in op.path}
    path = [{"name": name, "in": "path", "required": True, **each} for name, each in named.items()]
    model = {} if op.query is None else schemas[op.query.__name__]
    query = [_query_parameter(name, each, model["examples"][0]) for name, each in model.get("properties", {}).items()]
    headers = [{"name": name, "in": "header", "required": False, **HEADERS[name]} for name in op.headers]
    return [*path, *query, *headers]


def _query_parameter(name: str, schema: Schema, example: Schema) -> Schema:
    """A parameter without null, which a query string cannot carry."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "description") and value is not None}
    choices = [choice for choice in kept.pop("anyOf", []) if choice != {"type": "null"}]
    described = {"name": name, "in": "query", "required": False, "description": schema["description"]}
    described["schema"] = {**kept, **(choices[0] if choices else {})}
    return {**described, "example": example[name]} if name in example else described
