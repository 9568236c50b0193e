"""Hostile input on every route, byte for byte: every request gets a 4xx problem that names the fault, and makes no job."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest

from api.request_timeout import MAX_HEAD
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOBS = "/api/2.0/report/jobs"
ID = "0190163d-8694-739b-aea5-966c26f8ad91"
BODY_ROUTES = ["/messages", "/messages/batch", "/api/2.0/report/posts", "/dead-letters/requeue", "/dead-letters/discard"]


@dataclass(frozen=True)
class Hostile:
    """A raw request, and its expected answer: status, code, and the first pointer if fields are named."""

    name: str
    raw: bytes
    status: int
    code: str
    pointer: str | None = None


def post(name: str, path: str, body: bytes, status: int, code: str, pointer: str | None = None, **headers: str) -> Hostile:
    sent_headers = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    lines = "".join(f"{key}: {value}\r\n" for key, value in sent_headers.items() if value)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return Hostile(f"{path} {name}", head.encode("latin-1") + body, status, code, pointer)


def get(path: str, status: int, code: str, pointer: str | None = None, method: str = "GET", **headers: str) -> Hostile:
    lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n"
    return Hostile(f"{method} {path[:60]} {headers}", head.encode("latin-1"), status, code, pointer)


# Bodies that no route takes.
BROKEN = [
    ("empty object twice", b"{}{}", 400, "malformed_json"),
    ("half an object", b'{"a"', 400, "malformed_json"),
    ("trailing comma", b'{"a": 1,}', 400, "malformed_json"),
    ("single quotes", b"{'a': 1}", 400, "malformed_json"),
    ("comment", b"{} // x", 400, "malformed_json"),
    ("NaN", b'{"a": NaN}', 400, "malformed_json"),
    ("Infinity", b'{"a": -Infinity}', 400, "malformed_json"),
    ("5,000 digits", b'{"a": ' + b"9" * 5000 + b"}", 400, "malformed_json"),
    ("not UTF-8", b'{"a": "\xff"}', 400, "malformed_json"),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), 400, "malformed_json"),
    ("a raw NUL", b'{"a": "\x00"}', 400, "malformed_json"),
    ("a byte order mark", b"\xef\xbb\xbf{}", 400, "malformed_json"),
    ("25 levels", b'{"a":' * 25 + b"1" + b"}" * 25, 400, "too_deep"),
    ("100,000 levels", b"[" * 100_000, 400, "too_deep"),
    ("a field twice", b'{"a": 1, "a": 2}', 400, "repeated_field"),
    ("a field twice, inside", b'{"x": [{"a": 1, "a": 2}]}', 400, "repeated_field"),
    ("a field twice, escaped", b'{"a": 1, "\\u0061": 2}', 400, "repeated_field"),
    ("an array", b"[1]", 422, "validation"),
    ("a string", b'"{}"', 422, "validation"),
    ("null", b"null", 422, "validation"),
    ("a number", b"1e3", 422, "validation"),
    ("an unknown field", b'{"speed": 1}', 422, "validation"),
    ("__proto__", b'{"__proto__": {}}', 422, "validation"),
    ("256 KiB and one", b" " * (256 * 1024 + 1), 413, "too_large"),
]
BODIES = [post(name, path, body, status, code) for path in BODY_ROUTES for name, body, status, code in BROKEN]
BODIES += [
    post(f"content type {kind!r}", path, b"{}", 415, "unsupported_media_type", Content_Type=kind)
    for path in BODY_ROUTES
    for kind in ("", "text/plain", "application/xml", "application/json; charset=utf-16", "application/jsonx")
]
BODIES += [post("gzip", path, b"{}", 415, "unsupported_media_type", Content_Encoding="gzip") for path in BODY_ROUTES]


def message(name: str, pointer: str, **fields: Any) -> Hostile:
    body = json.dumps({"destination": "+1", "body": "b", **fields}).encode()
    return post(name, "/messages", body, 422, "validation", pointer)


MESSAGES = [
    message("no destination", "/destination", destination=None),
    message("an empty destination", "/destination", destination=""),
    message("a blank destination", "/destination", destination=" \u00a0\u3000"),
    message("a number as destination", "/destination", destination=15550001),
    message("a list as destination", "/destination", destination=["+1"]),
    message("true as destination", "/destination", destination=True),
    message("a NUL in the destination", "/destination", destination="a\0b"),
    message("CRLF in the destination", "/destination", destination="+1\r\nBcc: all"),
    message("a C1 control in the destination", "/destination", destination="+1\u0085"),
    message("a lone surrogate", "/destination", destination="\ud83d"),
    message("321 characters", "/destination", destination="x" * 321),
    message("no body", "/body", body=None),
    message("an empty body", "/body", body=""),
    message("an object as body", "/body", body={"a": 1}),
    message("a NUL in the body", "/body", body="\0"),
    message("a surrogate in the body", "/body", body="a\udc00"),
    message("65,537 bytes", "/body", body="x" * 65_537),
    message("65,538 bytes of two", "/body", body="é" * 32_769),
    message("an unknown provider", "/provider", provider="other"),
    message("a path as provider", "/provider", provider="../sandbox"),
    message("a long provider", "/provider", provider="x" * 10_000),
    message("an unknown priority", "/priority", priority="urgent"),
    message("a number as priority", "/priority", priority=9),
    message("an unknown delivery", "/delivery", delivery="exactly_once"),
    message("eleven tags", "/tags", tags=["t"] * 11),
    message("a tag of 65", "/tags/0", tags=["x" * 65]),
    message("an empty tag", "/tags/0", tags=[""]),
    message("a NUL in a tag", "/tags/1", tags=["a", "\0"]),
    message("a tag that is none", "/tags/0", tags=[None]),
    message("tags as text", "/tags", tags="a,b"),
    message("a reference of 256", "/reference", reference="x" * 256),
    message("a NUL in the reference", "/reference", reference="\0"),
    message("metadata as a list", "/metadata", metadata=[1]),
    message("4 KiB of metadata", "/metadata", metadata={"a": "x" * 4096}),
    message("a NUL in metadata", "/metadata", metadata={"a": ["\0"]}),
    message("a NUL as a key", "/metadata", metadata={"\0": 1}),
    message("a surrogate in metadata", "/metadata", metadata={"a": "\ud800"}),
    message("an integer of 70 bits", "/metadata", metadata={"a": 2**70}),
    message("a negative TTL", "/ttl_seconds", ttl_seconds=-1),
    message("a huge TTL", "/ttl_seconds", ttl_seconds=10**30),
    message("a bad date", "/send_at", send_at="2026-13-45T99:99:99Z"),
    message("a date without a zone", "/expires_at", expires_at="2026-11-22T00:00:00"),
    message("an id of its own", "/id", id=ID),
    message("a status of its own", "/status", status="sent"),
    message("a client of its own", "/client_id", client_id="other"),
    message("SQL as a field", "/'; DROP TABLE jobs; --", **{"'; DROP TABLE jobs; --": 1}),
    post("an overflow in metadata", "/messages", b'{"destination":"+1","body":"b","metadata":{"a":1e999}}', 422, "validation", "/metadata"),
    post("a key of 256", "/messages", b'{"destination":"+1","body":"b"}', 422, "validation", "Idempotency-Key", Idempotency_Key="k" * 256),
    post("a key with a space", "/messages", b'{"destination":"+1","body":"b"}', 422, "validation", "Idempotency-Key", Idempotency_Key="a b"),
    post("a key of umlauts", "/messages", b'{"destination":"+1","body":"b"}', 422, "validation", "Idempotency-Key", Idempotency_Key="schl\xfcssel"),
    post("a bad key for a batch", "/messages/batch", b'{"messages":[{}]}', 422, "validation", "Idempotency-Key", Idempotency_Key="\xe4"),
    post("no messages", "/messages/batch", b'{"messages":[]}', 422, "validation", "/messages"),
    post("1,001 messages", "/messages/batch", b'{"messages":[' + b"1," * 1000 + b"1]}", 422, "validation", "/messages"),
    post("messages as an object", "/messages/batch", b'{"messages":{}}', 422, "validation", "/messages"),
    post("a NUL as callback_url", "/api/2.0/report/posts", b'{"callback_url":"\\u0000"}', 422, "validation", "/callback_url"),
    post("an empty list of ids", "/dead-letters/requeue", b'{"ids":[]}', 422, "validation", "/ids"),
    post("ids that are none", "/dead-letters/discard", b'{"ids":["1"]}', 422, "validation", "/ids/0"),
    post("1 MB as id", "/dead-letters/discard", b'{"ids":["' + b"a" * 200_000 + b'"]}', 422, "validation", "/ids/0"),
    post("limit 0", "/dead-letters/requeue", b'{"limit":0}', 422, "validation", "/limit"),
    post("limit true", "/dead-letters/requeue", b'{"limit":true}', 422, "validation", "/limit"),
    post("a huge limit", "/dead-letters/requeue", b'{"limit":1e400}', 422, "validation", "/limit"),
    post("an unknown provider", "/dead-letters/requeue", b'{"provider":"x"}', 422, "validation", "/provider"),
    post("dry_run as text", "/dead-letters/requeue", b'{"dry_run":"yes"}', 422, "validation", "/dry_run"),
    post("a provider to discard", "/dead-letters/discard", b'{"provider":"sandbox"}', 422, "validation", "/provider"),
    post("a date as a number", "/dead-letters/discard", b'{"filter":{"failed_before":0}}', 422, "validation", "/filter/failed_before"),
    post("an offset of a day", "/dead-letters/discard", b'{"filter":{"failed_before":"2026-11-22T00:00:00+24:00"}}', 422, "validation", "/filter/failed_before"),
    post("the year 0", "/dead-letters/discard", b'{"filter":{"failed_after":"0000-01-01T00:00:00Z"}}', 422, "validation", "/filter/failed_after"),
    post("before the year 1", "/dead-letters/discard", b'{"filter":{"failed_after":"0001-01-01T00:00:00+10:00"}}', 422, "validation", "/filter/failed_after"),
]  # fmt: skip

SPELLINGS = [
    ID.upper(), ID.replace("-", ""), "%7B" + ID + "%7D", f"urn:uuid:{ID}", ID[:-1], ID + "0", ID + "%00", "%20" + ID, ID + "/",
    "0190163d-8694-439b-aea5-966c26f8ad91", "0190163d-8694-739b-cea5-966c26f8ad91", "00000000-0000-0000-0000-000000000000", ID,
    "1", "-1", "null", "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%252e%252e", "%ff", "%00", "a%0d%0aX:%20y", "*", "a" * 8000,
    "';--", "%u0031",
]  # fmt: skip
IDS = [
    get(f"{base}/{id_}{rest}", 404, "not_found") for id_ in SPELLINGS for base, rest in (("/messages", ""), (JOBS, "/result"))
]
PATHS = [
    get(path, 404, "not_found")
    for path in ("//", "/messages/", "/Messages", "/messages;x=1", "/message", "/api", "/.env", "/docs/", "/%00",
                 "/..;/health/live", "/api/2.0/report/jobs/", "/dead-letters/", "/health", "/admin", "/openapi.json/")
]  # fmt: skip
METHODS = [
    get(path, 405, "method_not_allowed", method=method)
    for path, methods in {
        "/messages": ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"),
        "/messages/batch": ("GET", "PUT"),
        f"/messages/{ID}": ("POST", "DELETE", "PUT"),
        f"/message/{ID}/status": ("POST", "DELETE"),
        "/api/1.0/report/posts": ("POST", "DELETE"),
        "/api/2.0/report/posts": ("GET", "PUT"),
        f"{JOBS}/{ID}/result": ("POST", "DELETE"),
        "/dead-letters": ("POST", "DELETE"),
        "/dead-letters/requeue": ("GET", "PUT"),
        "/health/live": ("POST",),
        "/openapi.json": ("POST",),
    }.items()
    for method in methods
]
QUERIES = [
    get(f"{path}?{query}", 422, "validation", "?" + unquote(query.partition("=")[0]))
    for path in ("/messages", JOBS, "/dead-letters")
    for query in ("limit=0", "limit=-1", "limit=1e9", "limit=99999999999999999999", "limit=", "limit=%00", "cursor=x", "cursor=%ff", "cursor=AA",
                  "cursor=" + "a" * 101, "unknown=1", "limit=1&limit=2", "%00=1")
]  # fmt: skip
QUERIES += [
    get("/messages?" + "&".join(map(str, range(11_000))), 422, "validation", "?"),
    get("/messages?status=lost", 422, "validation", "?status"),
    get("/messages?tag=%00", 422, "validation", "?tag"),
    get("/messages?destination=" + "x" * 321, 422, "validation", "?destination"),
    get("/dead-letters?kind=all", 422, "validation", "?kind"),
    get("/dead-letters?failed_after=yesterday", 422, "validation", "?failed_after"),
    get("/dead-letters?failed_after=0", 422, "validation", "?failed_after"),
    get("/dead-letters?failed_after=2026-02-30T00:00:00Z", 422, "validation", "?failed_after"),
    get("/dead-letters?failed_before=9999-12-31T23:59:59-23:59", 422, "validation", "?failed_before"),
    get("/dead-letters?reason=%00", 422, "validation", "?reason"),
    get(f"{JOBS}/{ID}/result?format=xml", 422, "validation", "?format"),
    get(f"{JOBS}/{ID}/result?limit=0", 422, "validation", "?limit"),
    get(f"{JOBS}/{ID}/result", 406, "not_acceptable", Accept="image/png"),
    get(f"{JOBS}/{ID}/result", 406, "not_acceptable", Accept="application/json;q=0"),
    get(f"{JOBS}/{ID}/result", 406, "not_acceptable", Accept=";;;,,,"),
]

_HEAD = b"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_MESSAGE = b'{"destination":"+1","body":"b"}'
_LENGTH = f"Content-Length: {len(_MESSAGE)}\r\n".encode()


def wire(name: str, raw: bytes, status: int = 400, code: str = "malformed_http") -> Hostile:
    return Hostile(name, raw, status, code)


WIRE = [
    wire("no HTTP at all", b"hello\r\n\r\n"),
    wire("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32),
    wire("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    wire("HTTP/9.9", b"GET /version HTTP/9.9\r\n\r\n"),
    wire("an unknown method", b"BREW /messages HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    wire("a raw umlaut in the path", "GET /messages/\xe9 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1")),
    wire("a small method", b"get /version HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    wire("a space in the path", b"GET /mess ages HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    wire("a control in the path", b"GET /mess\x01ages HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    wire("length and chunked", _HEAD + _LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    wire("chunked and length", _HEAD + b"Transfer-Encoding: chunked\r\n" + _LENGTH + b"\r\n0\r\n\r\n"),
    wire("two lengths", _HEAD + _LENGTH + b"Content-Length: 5\r\n\r\n" + _MESSAGE),
    wire("a negative length", _HEAD + b"Content-Length: -1\r\n\r\n"),
    wire("a signed length", _HEAD + b"Content-Length: +31\r\n\r\n" + _MESSAGE),
    wire("a length in hex", _HEAD + b"Content-Length: 0x1f\r\n\r\n" + _MESSAGE),
    wire("a length of 30 digits", _HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n"),
    wire("chunked, obfuscated", _HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    wire("chunked twice", _HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    wire("a space before the colon", b"GET /version HTTP/1.1\r\nHost : x\r\n\r\n"),
    wire("a folded header", b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n\t2\r\nBad\r\n\r\n"),
    wire("a NUL in a header", b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n"),
    wire("a bare CR in a header", b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-A: a\rb\r\n\r\n"),
    wire("a header without a name", b"GET /version HTTP/1.1\r\n: x\r\n\r\n"),
    wire("a header without a colon", b"GET /version HTTP/1.1\r\nHost\r\n\r\n"),
    wire("a line in one header", b"GET /version HTTP/1.1\r\n" + b"X: " + b"y" * MAX_HEAD, 431, "headers_too_large"),
    wire("10,000 headers", b"GET /version HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431, "headers_too_large"),
    wire("1 MB as id", b"GET /messages/" + b"a" * 1_000_000, 431, "headers_too_large"),
    wire("a bad chunk size", _HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + _MESSAGE, 400, "malformed_http"),
]
TABLE = [*BODIES, *MESSAGES, *IDS, *PATHS, *METHODS, *QUERIES, *WIRE]


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    return shared_stack


async def _answer(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes; return status, headers and body of the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
    finally:
        writer.close()
    return int(lines[0].split(" ")[1]), headers, body


async def test_every_hostile_input_is_a_problem_that_names_it(stack: Stack) -> None:
    assert len(TABLE) >= 150 and len({hostile.raw for hostile in TABLE}) == len(TABLE)
    wrong: list[str] = []
    for hostile in TABLE:
        try:
            status, headers, body = await _answer(stack.port, hostile.raw)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            wrong.append(f"{hostile.name}: no answer ({error!r})")
            continue
        if headers.get("content-type") != "application/problem+json":
            wrong.append(f"{hostile.name}: {status} {headers.get('content-type')} {body[:80]!r}")
            continue
        problem = json.loads(body)
        pointers = [error["pointer"] for error in problem.get("errors", [])]
        well = (status, problem["code"]) == (hostile.status, hostile.code) and problem["status"] == status
        if not well or (hostile.pointer is not None and hostile.pointer not in pointers):
            wrong.append(
                f"{hostile.name}: {status} {problem['code']} {pointers}, not {hostile.status} {hostile.code} {hostile.pointer}"
            )
        elif problem["request_id"] != headers["x-request-id"] or not problem["detail"]:
            wrong.append(f"{hostile.name}: {problem}")
    assert not wrong, "\n".join(wrong)
    assert stack.rows("SELECT count(*) FROM jobs") == [(0,)]
    assert "request.failed" not in stack.processes["api"].output()
    assert await stack.submit()  # the API still works


async def test_a_smuggled_request_is_not_seen(stack: Stack) -> None:
    """Bytes after a complete body are the next request; bytes after a refusal are ignored."""
    before = stack.rows("SELECT count(*) FROM jobs")
    inner = _HEAD + _LENGTH + b"\r\n" + _MESSAGE
    for outer in (
        _HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
        _HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
        _HEAD + b"Content-Length: 0\r\nContent-Length: 31\r\n\r\n" + inner,
    ):
        status, _, _ = await _answer(stack.port, outer)
        assert status == 400
    assert stack.rows("SELECT count(*) FROM jobs") == before
