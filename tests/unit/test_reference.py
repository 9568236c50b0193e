"""The reference page: inline fields, working commands, links. Every example is what the API accepts or answers."""

import asyncio
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request

from api.descriptions import EXAMPLES, FIELDS, problems_of
from api.documents import DocumentEndpoints
from api.openapi import document
from api.operations import OPERATIONS, Operation
from api.reference import Reference

DOCUMENT = document("1", ["sandbox"])
REFERENCE = Reference(DOCUMENT, "http://127.0.0.1:9006", keys=False)
ENTRIES = {entry.anchor: entry for section in REFERENCE.sections for entry in section.entries}
MODELS: list[type[BaseModel]] = [model for op in OPERATIONS for model in (op.body, op.query) if model]


def _page(host: str = "127.0.0.1:9006", *, keys: bool = False) -> tuple[str, str]:
    """The page and its Content-Security-Policy."""
    documents = DocumentEndpoints(lambda: DOCUMENT, lambda: keys)
    headers = [(b"host", host.encode())]
    scope = {"type": "http", "scheme": "http", "path": "/docs", "query_string": b"", "headers": headers}
    answer = asyncio.run(documents.docs(Request(scope)))
    return bytes(answer.body).decode(), answer.headers["Content-Security-Policy"]


def _commands(page: str) -> list[str]:
    return [unescape(each) for each in re.findall(r'<pre class="curl">(.*?)</pre>', page, re.DOTALL)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_example_of_a_request_is_valid(model: type[BaseModel]) -> None:
    examples = DOCUMENT["components"]["schemas"][model.__name__]["examples"]
    assert examples
    for example in examples:
        model.model_validate(example)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_example_of_an_answer_has_its_shape(operation: Operation) -> None:
    responses = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    for status, answer in operation.answers.items():
        if isinstance(answer, type):
            example = responses[str(status)]["content"]["application/json"]["example"]
            TypeAdapter(answer).validate_json(orjson.dumps(example))
            assert example.keys() >= {row.name for row in _rows(operation, status) if row.required and "." not in row.name}


def _rows(operation: Operation, status: int) -> list[Any]:
    return next(each.fields for each in ENTRIES[operation.name].answers if each.status == str(status))


def test_every_field_has_a_meaning_and_every_meaning_a_field() -> None:
    named = set()
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            named |= {f"{name}.{field}"} & FIELDS.keys() or {field}
    assert named == set(FIELDS)
    answers = {f"{op.method} {op.path} {status}" for op in OPERATIONS for status in op.answers}
    assert {key for key in EXAMPLES if " " in key} <= answers


def test_the_fields_of_a_message_are_inline() -> None:
    rows = {row.name: row for row in ENTRIES["post_messages"].body}
    assert (rows["destination"].required, rows["destination"].limits) == (True, "1 to 320 characters")
    assert (rows["priority"].default, rows["priority"].limits) == ("normal", "`normal`, `high`")
    assert (rows["tags"].type, rows["tags"].limits) == ("array of strings", "at most 10 items; each 1 to 64 characters")
    assert rows["callback_url"].type == "string or null"
    assert all(row.meaning for entry in ENTRIES.values() for row in (*entry.body, *entry.parameters))


def test_the_fields_within_fields_are_inline() -> None:
    items = [row.name for row in ENTRIES["post_messages_batch"].answers[0].fields]
    assert {"data[].index", "data[].problem.code", "data[].problem.errors[].pointer"} <= set(items)
    assert "filter.reason" in [row.name for row in ENTRIES["post_dead_letters_requeue"].body]
    assert "progress.of_about" in [row.name for row in ENTRIES["get_api_2_0_report_jobs_id"].answers[0].fields]


def test_an_operation_lists_only_its_own_problems() -> None:
    assert [status for status, _ in ENTRIES["get_version"].problems] == ["403", "421"]
    codes = {op.name: {code for meanings in problems_of(op).values() for code in meanings} for op in OPERATIONS}
    assert "idempotency_key_reused" in codes["post_messages"] and "idempotency_key_reused" not in codes["get_messages"]
    assert codes["get_api_2_0_report_jobs_id_result"] >= {"not_completed", "no_result", "not_acceptable", "not_found"}
    assert "busy" in codes["get_api_1_0_report_posts"] and "busy" not in codes["post_api_2_0_report_posts"]


def test_the_http_page_lists_the_same_codes() -> None:
    page = (Path(__file__).parents[2] / "docs/http-api.md").read_text("utf-8").partition("\n## Problems\n")[2]
    listed = {(int(status), code) for status, codes in re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
              for code in re.findall(r"`(\w+)`", codes)}  # fmt: skip
    of_any_request = {
        (400, "malformed_http"), (400, "disconnected"), (405, "method_not_allowed"), (431, "headers_too_large"),
        (500, "internal_error"),
    }  # fmt: skip
    documented = {(status, code) for op in OPERATIONS for status, codes in problems_of(op).items() for code in codes}
    assert documented == listed - of_any_request


def test_every_operation_has_commands_of_its_own_base_url() -> None:
    page, _ = _page("api.example:8443")
    commands = _commands(page)
    assert len(commands) >= len(OPERATIONS)
    assert all("curl " in each and "http://api.example:8443/" in each for each in commands)
    for operation in OPERATIONS:
        words = shlex.split(ENTRIES[operation.name].commands[0])
        assert words[0] == "curl" and ("-d" in words or "POST" in words) == (operation.method == "POST")


@pytest.mark.parametrize("host", ["a$(id)", "a`id`", "a;id", "'\"<b>", "a b", "é", ""])
def test_a_host_that_a_shell_interprets_is_in_no_command(host: str) -> None:
    page, _ = _page(host)
    assert all(each.split("/")[2] == "127.0.0.1:9006" for each in _commands(page))


def test_commands_send_a_key_where_requests_need_one() -> None:
    (open_page, _), (keyed, _) = _page(), _page(keys=True)
    header = "Authorization: Bearer $POSTHASTE_API_KEY"
    assert header not in open_page and "Requests need no key now." in open_page
    guarded = sum(len(ENTRIES[op.name].commands) for op in OPERATIONS if op.scope)
    assert keyed.count(header) == guarded + len([section for section in REFERENCE.sections if section.prepare])
    assert "export POSTHASTE_API_KEY=" in keyed


def test_every_link_leads_to_an_operation_or_a_section() -> None:
    page, _ = _page()
    anchors = re.findall(r' id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors)) and {op.name for op in OPERATIONS} <= set(anchors)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(anchors)
    assert page.count('href="#get_message_id_status"') >= 3  # list, heading, field


def test_the_page_has_no_script_and_no_literal_markup() -> None:
    page, policy = _page()
    assert "<script" not in page and "://" not in re.sub(r"<pre.*?</pre>|<code>.*?</code>", "", page, flags=re.DOTALL)
    assert "`" not in page and "$ref" not in page and ">None<" not in page
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
