"""Validation of requests: every bad field is named, no answer is a 500, and no job is made."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from infra.postgres.compatibility import code_revision
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Bad:
    """A request to POST /messages, and its expected answer: status, code, and pointer → code of each field."""

    body: bytes
    status: int
    code: str
    errors: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=lambda: JSON)


def fields(status: int = 422, code: str = "validation", errors: dict[str, str] | None = None, **values: Any) -> Bad:
    return Bad(json.dumps(values).encode(), status, code, errors or {})


BAD = [
    Bad(b"", 400, "malformed_json"),
    Bad(b"{", 400, "malformed_json"),
    Bad(b"{'destination': 1}", 400, "malformed_json"),
    Bad(b"\xff\xfe{}", 400, "malformed_json"),
    Bad(b'{"destination": NaN, "body": "b"}', 400, "malformed_json"),
    Bad(b'{"destination": ' + b"9" * 5000 + b', "body": "b"}', 400, "malformed_json"),
    Bad(b'{"a":' * 25 + b"1" + b"}" * 25, 400, "too_deep"),
    Bad(b"[" * 100_000, 400, "too_deep"),
    Bad(b"[]", 422, "validation", {"": "wrong_type"}),
    Bad(b'"text"', 422, "validation", {"": "wrong_type"}),
    Bad(b"null", 422, "validation", {"": "wrong_type"}),
    Bad(b"{}", 422, "validation", {"/destination": "required", "/body": "required"}),
    fields(destination="", body="", errors={"/destination": "too_short", "/body": "too_short"}),
    fields(destination=1, body=None, errors={"/destination": "wrong_type", "/body": "wrong_type"}),
    fields(destination=["+1"], body={"a": 1}, errors={"/destination": "wrong_type", "/body": "wrong_type"}),
    fields(destination=True, body="b", errors={"/destination": "wrong_type"}),
    fields(destination="x" * 321, body="b", errors={"/destination": "too_long"}),
    fields(destination="+1", body="x" * 65_537, errors={"/body": "too_long"}),
    fields(destination="+1", body="é" * 32_769, errors={"/body": "too_long"}),
    fields(destination="a\0b", body="\0", errors={"/destination": "nul_character", "/body": "nul_character"}),
    Bad(b'{"destination": "\\ud800", "body": "b"}', 422, "validation", {"/destination": "invalid_unicode"}),
    Bad(b'{"destination": "+1", "body": "a\\udfff"}', 422, "validation", {"/body": "invalid_unicode"}),
    fields(destination="+1", body="b", speed=1, errors={"/speed": "unknown_field"}),
    fields(destination="+1", body="b", id="x", version=1, errors={"/id": "unknown_field", "/version": "unknown_field"}),
    Bad(b'{"destination": "+1", "body": "b", "\\ud800/~": 1}', 422, "validation", {"/\\ud800~1~0": "unknown_field"}),
    fields(destination="+1", body="b", send_at="2030-01-01T00:00:00Z", errors={"/send_at": "unknown_field"}),
    fields(destination="+1", body="b", provider="nobody", errors={"/provider": "unknown_provider"}),
    fields(destination="+1", body="b", provider=7, errors={"/provider": "wrong_type"}),
    fields(destination="+1", body="b", provider="", errors={"/provider": "too_short"}),
    Bad(b"x" * (256 * 1024 + 1), 413, "too_large"),
    Bad(b"{}", 415, "unsupported_media_type", headers={"Content-Type": "text/plain"}),
    Bad(b"a=1", 415, "unsupported_media_type", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Bad(b"{}", 415, "unsupported_media_type", headers={**JSON, "Content-Encoding": "gzip"}),
]  # fmt: skip


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    return shared_stack


async def test_bad_messages_are_refused_naming_every_bad_field(stack: Stack) -> None:
    before = stack.rows("SELECT count(*) FROM jobs")
    for bad in BAD:
        async with stack.session.post(f"{stack.base}/messages", data=bad.body, headers=bad.headers) as response:
            answer = await response.json(content_type="application/problem+json")
            errors = {error["pointer"]: error["code"] for error in answer.get("errors", [])}
            assert (response.status, answer["code"], errors) == (bad.status, bad.code, bad.errors), bad.body[:100]
            assert answer["status"] == response.status
            assert answer["request_id"] == response.headers["X-Request-ID"]
    assert stack.rows("SELECT count(*) FROM jobs") == before


async def test_a_batch_under_a_key_may_hold_what_no_fingerprint_could(stack: Stack) -> None:
    """Found by schemathesis: an integer of 105 bits in an item was a 500."""
    body = b'{"messages": [{"": 47235082640266555262851960799232}, {"destination": "+1", "body": "b"}]}'
    headers = {**JSON, "Idempotency-Key": uuid4().hex}
    async with stack.session.post(f"{stack.base}/messages/batch", data=body, headers=headers) as response:
        assert response.status == 202
        first, second = (await response.json())["data"]
    assert first["problem"]["code"] == "validation" and second["status"] == "queued"


async def test_the_largest_that_is_allowed_is_accepted_whole(stack: Stack) -> None:
    body = "é" * 32_768
    id_ = await stack.submit("d" * 320, body)
    record = await stack.record(id_)
    assert (record["destination"], record["body"]) == ("d" * 320, body)
    for text in ("\u0001\u001f", "line\r\nbreak", "😀\u2028", "x" * 10 + "\u00a0"):
        assert (await stack.record(await stack.submit("+1", text)))["body"] == text


async def test_ids_that_are_not_there_or_malformed_are_404(stack: Stack) -> None:
    id_ = await stack.submit()
    wrong = [str(uuid4()), id_.upper(), id_.replace("-", ""), "{" + id_ + "}", "1", "%00", "%ff", "x" * 8000, f"{id_}%20"]
    wrong.append("01900000-0000-7000-8000-000000000000")
    for other in wrong:
        for path in (f"/message/{other}/status", f"/messages/{other}/status", f"/messages/{other}"):
            async with stack.session.get(f"{stack.base}{path}") as response:
                assert response.status == 404, path
                assert (await response.json(content_type=None))["code"] == "not_found"


async def test_other_paths_and_methods_are_problems_too(stack: Stack) -> None:
    id_ = await stack.submit()
    for method, path, status, allow in [
        ("POST", "/", 405, {"GET", "HEAD"}),
        ("GET", "/nothing", 404, None),
        ("POST", "/message", 404, None),
        ("PUT", "/messages", 405, {"GET", "HEAD", "POST"}),
        ("GET", "/messages/", 404, None),
        ("DELETE", f"/messages/{id_}", 405, {"GET", "HEAD"}),
        ("POST", f"/message/{id_}/status", 405, {"GET", "HEAD"}),
        ("PATCH", "/messages/batch", 405, {"POST"}),
    ]:
        async with stack.session.request(method, stack.base + path) as response:
            answer = await response.json(content_type="application/problem+json")
            assert (response.status, answer["status"]) == (status, status), path
            assert allow is None or set(response.headers["Allow"].split(", ")) == allow


async def test_a_request_id_is_the_clients_own_where_it_is_a_plain_one(stack: Stack) -> None:
    for request_id, is_valid in (("abc-123", True), ("a b", False), ("x" * 65, False)):
        async with stack.session.get(f"{stack.base}/nothing", headers={"X-Request-ID": request_id}) as response:
            assert (response.headers["X-Request-ID"] == request_id) == is_valid


async def test_health_and_version(stack: Stack) -> None:
    assert await stack.get("/health/live") == (200, {"status": "live"})
    up = {"postgres": "up", "rabbitmq": "up", "redis": "up", "tasks": "up"}
    assert await stack.get("/health/ready") == (200, {"status": "ready", "checks": up})
    code, version = await stack.get("/version")
    assert (code, version["name"], version["schema"]) == (200, "posthaste", code_revision())
