"""The reference page's content, from the OpenAPI document: operations in sections, their fields in rows, and curl commands."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup, escape

Schema = dict[str, Any]
_UNITS = (
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minimum", "maximum", ""),
)
_FORMATS = {"date-time": "RFC 3339", "uuid": "UUIDv7", "uri": "http or https"}
_IDS = {"Messages": "ID", "Reports": "REPORT"}  # the shell variables of ids, by section
_SCHEDULE = "nightly"  # the name in the example of a schedule
_OF_EVERY_ANSWER = "X-Request-ID"
_EXTRACT = 'sed \'s/.*"id":"\\([^"]*\\)".*/\\1/\''


@dataclass(frozen=True, slots=True)
class Row:
    """One field of a table. `place`: of a parameter."""

    name: str
    type: str
    required: bool
    default: str
    limits: str
    meaning: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One documented answer, with an example of each media type."""

    status: str
    description: str
    headers: list[Row]
    media_types: list[str]
    fields: list[Row]
    examples: list[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation of the page."""

    anchor: str
    method: str
    path: str
    summary: str
    description: str
    commands: list[str]
    parameters: list[Row]
    body: list[Row]
    answers: list[Answer]
    problems: list[tuple[str, list[str]]]  # the codes of each status, with their meanings


@dataclass(frozen=True, slots=True)
class Section:
    """The operations of one tag. `prepare` is a command that sets the shell variable of their ids."""

    title: str
    prepare: str
    entries: list[Entry]


class Reference:
    """The page's content for an API at `base`; with `keys`, its commands send one."""

    def __init__(self, document: Schema, base: str, *, keys: bool):
        self._schemas: Schema = document["components"]["schemas"]
        self._base = base
        self._keys = keys
        operations = [
            (method.upper(), path, described) for path, each in document["paths"].items() for method, described in each.items()
        ]
        tags = dict.fromkeys(described["tags"][0] for _, _, described in operations)
        self.sections = [self._section(tag, [each for each in operations if each[2]["tags"] == [tag]]) for tag in tags]
        self.problem = list(self._fields(self._schemas["ProblemOut"]))
        self._anchors = {f"{method} {path}": described["operationId"] for method, path, described in operations}

    def marked(self, text: str) -> Markup:
        """A sentence as HTML: `code`, and links to the operations that it names."""
        parts = enumerate(text.split("`"))  # every second part is code
        return Markup("").join(self._code(part) if index % 2 else escape(part) for index, part in parts)

    def _code(self, text: str) -> Markup:
        anchor = self._anchors.get(text)
        code = Markup("<code>{}</code>").format(text)
        return code if anchor is None else Markup('<a href="#{}">{}</a>').format(anchor, code)

    def _section(self, tag: str, operations: list[tuple[str, str, Schema]]) -> Section:
        entries = [self._entry(*each) for each in operations]
        prepare = ""
        if tag in _IDS:
            accepts = next(each for each in entries if "Location" in {row.name for row in each.answers[0].headers})
            prepare = f"{_IDS[tag]}=$({accepts.commands[0].replace('curl', 'curl -s', 1)} \\\n     | {_EXTRACT})"
        return Section(tag, prepare, entries)

    def _entry(self, method: str, path: str, described: Schema) -> Entry:
        content = described.get("requestBody", {}).get("content", {}).get("application/json")
        model = self._resolved(content["schema"]) if content else {}
        parameters = [self._parameter(each) for each in described["parameters"]]
        responses = described["responses"].items()
        failures = [(status, each) for status, each in responses if "application/problem+json" in each.get("content", {})]
        answers = [self._answer(status, each) for status, each in responses if (status, each) not in failures]
        return Entry(
            described["operationId"],
            method,
            path,
            described["summary"],
            described.get("description", ""),
            list(self._commands(method, path, described, model)),
            parameters,
            list(self._fields(model)),
            answers,
            [(status, re.split(r" (?=`)", each["description"])) for status, each in failures],
        )

    def _answer(self, status: str, described: Schema) -> Answer:
        headers = [self._parameter({"name": name, "in": "header", **each}) for name, each in described["headers"].items()]
        content: dict[str, Schema] = described.get("content", {})
        fields = [row for each in content.values() for row in self._fields(self._resolved(each["schema"]))]
        examples = [_example(each["example"]) for each in content.values() if "example" in each]
        own = [each for each in headers if each.name != _OF_EVERY_ANSWER]
        return Answer(status, described["description"], own, list(content), fields, examples)

    def _commands(self, method: str, path: str, described: Schema, model: Schema) -> Iterator[str]:
        """A curl command for each example of the body; without a body, one."""
        query = urlencode({each["name"]: each["example"] for each in described["parameters"] if "example" in each})
        url = self._base + path.replace("{id}", f"${_IDS.get(described['tags'][0])}").replace("{name}", _SCHEDULE)
        url = f"{url}?{query}" if query else url
        url = f'"{url}"' if {"?", "["} & {*url} else url  # characters of the shell's patterns
        lines = [f"curl {'-N ' if path.endswith('/events') else ''}{url}"]
        if self._keys and described["security"]:
            lines.append('-H "Authorization: Bearer $POSTHASTE_API_KEY"')
        if not described.get("requestBody", {}).get("required"):
            lines[0] = lines[0] if method == "GET" else lines[0].replace("curl", f"curl -X {method}", 1)
            yield " \\\n     ".join(lines)
            return
        for example in model["examples"]:
            body = shlex.quote(_spaced(example))
            yield " \\\n     ".join([*lines, "-H 'Content-Type: application/json'", f"-d {body}"])

    def _parameter(self, described: Schema) -> Row:
        schema = described["schema"]
        type_, limits, default = self._type(schema), self._limits(schema), _default(schema)
        required = described.get("required", False)
        return Row(described["name"], type_, required, default, limits, described["description"], described["in"])

    def _fields(self, schema: Schema, prefix: str = "") -> Iterator[Row]:
        """The fields of an object, and those of the objects in them."""
        for name, field in schema.get("properties", {}).items():
            path, required = prefix + name, name in schema.get("required", ())
            meaning = field.get("description", "")
            yield Row(path, self._type(field), required, _default(field), self._limits(field), meaning)
            inner = self._resolved(field)
            items = self._resolved(inner["items"]) if "items" in inner else {}
            yield from self._fields(items, f"{path}[].") if items else self._fields(inner, f"{path}.")

    def _resolved(self, schema: Schema) -> Schema:
        """The schema without null and reference."""
        if "anyOf" in schema:
            return self._resolved(next(each for each in schema["anyOf"] if each != {"type": "null"}))
        if "$ref" in schema:
            resolved: Schema = self._schemas[schema["$ref"].rpartition("/")[2]]
            return resolved
        return schema

    def _type(self, schema: Schema) -> str:
        inner = self._resolved(schema)
        type_ = inner.get("type", "string" if "enum" in inner or "const" in inner else "any")
        items = self._resolved(inner.get("items", {})).get("type")
        nullable = " or null" if {"type": "null"} in schema.get("anyOf", ()) else ""
        return f"{type_}{f' of {items}s' if items else ''}{nullable}"

    def _limits(self, schema: Schema) -> str:
        inner = self._resolved(schema)
        values = [inner["const"]] if "const" in inner else inner.get("enum", ())
        parts = [", ".join(f"`{value if isinstance(value, str) else _spaced(value)}`" for value in values)]
        parts += [_range(inner.get(low), inner.get(high), unit) for low, high, unit in _UNITS]
        parts.append(_FORMATS.get(inner.get("format", ""), ""))
        items = self._limits(inner["items"]) if "items" in inner else ""
        parts.append(f"each {items}" if items else "")
        return "; ".join(filter(None, parts))


def _default(schema: Schema) -> str:
    value = schema.get("default")
    return "" if value is None else value if isinstance(value, str) else _spaced(value)


def _range(low: int | None, high: int | None, unit: str) -> str:
    if high is None:
        return "" if low is None else f"at least {low:,}{unit}"
    return f"at most {high:,}{unit}" if low is None else f"{low:,} to {high:,}{unit}"


def _example(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def _spaced(value: Any) -> str:
    """JSON in one line, with spaces."""
    return json.dumps(value, ensure_ascii=False)
