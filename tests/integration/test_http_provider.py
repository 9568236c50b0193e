"""The HTTP provider over real sockets: the status line decides, and `send` never raises."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.providers.http import HttpProvider
from infra.webhooks.guard import Guard
from infra.webhooks.sender import CallbackSender
from infra.webhooks.signing import Signer
from jobs.outcome import Outcome, Verdict
from tests.support.receiver import LOOPBACK, SECRET, receiving

PATIENCE = 30.0  # no test may need it: the bound is the provider's own
SECONDS = 10.0


@asynccontextmanager
async def _answering(*parts: bytes, then: str = "hang", reads: bool = True) -> AsyncIterator[str]:
    """The URL of a server that answers each request with these parts, and then hangs, closes or resets."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if reads:
                await reader.readuntil(b"}")
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)  # parts arrive as parts
            if then == "reset":
                writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if then == "hang":
                await over.wait()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**20)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        over.set()
        server.close()


async def _send(url: str, body: str = "hello", seconds: float = PATIENCE, **more: str) -> Outcome:
    provider = HttpProvider(url, timeout_seconds=seconds, concurrency=4, **more)  # type: ignore[arg-type]
    async with asyncio.timeout(SECONDS):
        try:
            return await provider.send("+1", body, "key")
        finally:
            await provider.close()


@pytest.mark.parametrize("body_start", [b"", b'{"id":'])
@pytest.mark.parametrize("then", ["hang", "close", "reset"])
@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("200 OK", Verdict.ACCEPTED),
        ("400 Bad Request", Verdict.REJECTED),
        ("429 Too Many Requests", Verdict.DEFERRED),
        ("500 Oops", Verdict.RETRYABLE),
    ],
)
async def test_the_status_decides_whatever_happens_to_the_body(
    status: str, verdict: Verdict, then: str, body_start: bytes
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: 100\r\n\r\n".encode()
    async with _answering(head, body_start, then=then) as url:
        outcome = await _send(url)
    assert (outcome.verdict, outcome.provider_code) == (verdict, int(status[:3]))


@pytest.mark.parametrize("headers", [b"Content-Encoding: gzip", b"Content-Encoding: br", b"Transfer-Encoding: chunked"])
async def test_a_body_that_cannot_be_decoded_does_not_hide_an_acceptance(headers: bytes) -> None:
    async with _answering(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n", b"nonsense\r\n\r\n", then="close") as url:
        assert (await _send(url)).verdict is Verdict.ACCEPTED


async def test_a_message_id_that_comes_in_pieces_is_read_whole() -> None:
    async with _answering(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", b'{"id":', b' "7"}\n') as url:
        assert await _send(url) == Outcome(Verdict.ACCEPTED, None, 200, "7")


@pytest.mark.parametrize(
    ("field", "answer", "id_"),
    [
        ("id", b'{"id": 7}', "7"),
        ("sid", b'{"id": "wrong", "sid": "SM1"}', "SM1"),
        ("id", b'{"id": true}', None),
        ("id", b'{"id": 1.5}', None),
        ("id", b'{"id": {"a": 1}}', None),
        ("sid", b'{"id": "7"}', None),
        ("id", b'["id"]', None),
        ("id", b"OK", None),
    ],
)
async def test_the_field_of_the_message_id_holds_a_text_or_an_integer(field: str, answer: bytes, id_: str | None) -> None:
    async with _answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer), answer) as url:
        assert await _send(url, message_id_field=field) == Outcome(Verdict.ACCEPTED, None, 200, id_)


@pytest.mark.parametrize("status", [200, 307, 400, 404, 429, 500, 503])
async def test_an_excerpt_of_the_answer_is_kept_of_rejections_and_retries_alone(status: int) -> None:
    answer = b'{"id": "7",\r\n\t"error":  "<b>no\xff\x00such\x1b[31m n\xc3\xbcmber</b>"}' + b"x" * 10_000
    head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(answer))
    async with _answering(head, answer[:20], answer[20:]) as url:
        outcome = await _send(url)
    if outcome.verdict in (Verdict.REJECTED, Verdict.RETRYABLE):
        assert outcome.answer is not None and len(outcome.answer) == 500 and outcome.provider_message_id is None
        assert outcome.answer.startswith('{"id": "7", "error": "<b>no\ufffd such [31m n\u00fcmber</b>"}xxx')
    else:
        assert outcome.answer is None


async def test_an_empty_or_stalled_answer_has_no_excerpt_and_delays_nothing_for_long() -> None:
    for length, body, then in ((0, b"", "close"), (3, b" \n ", "close"), (100, b"begun", "hang")):
        async with _answering(b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n" % length, body, then=then) as url:
            outcome = await _send(url)
        assert (outcome.reason, outcome.answer) == ("http_400", None)


async def test_each_request_has_the_headers_of_its_provider_and_a_redirect_gets_none() -> None:
    received: list[tuple[web.Request, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        received.append((request, await request.read()))
        if len(received) == 1:
            raise web.HTTPTemporaryRedirect("/elsewhere")
        return web.Response()

    async with receiving(answers=[answer, answer]) as receiver:
        provider = HttpProvider(
            receiver.url,
            timeout_seconds=PATIENCE,
            concurrency=4,
            headers={"Authorization": "Bearer token", "user-agent": "shop/1"},
        )
        outcomes = [await provider.send("+1", "hello", key) for key in ("a", "b")]
        await provider.close()
    assert [outcome.reason for outcome in outcomes] == ["http_307", None]
    for (request, body), key in zip(received, ("a", "b"), strict=True):
        values = {name: request.headers.getall(name) for name in ("Authorization", "Idempotency-Key", "User-Agent")}
        assert values == {"Authorization": ["Bearer token"], "Idempotency-Key": [key], "User-Agent": ["shop/1"]}
        assert (request.path, body) == ("/", b'{"destination":"+1","body":"hello"}')


async def test_an_answer_before_the_request_was_read_leaves_no_connection_behind() -> None:
    async with _answering(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", reads=False) as url:
        assert (await _send(url, body="x" * 20_000_000)).verdict is Verdict.ACCEPTED


async def _callback(url: str) -> Outcome:
    sender = CallbackSender(Guard(LOOPBACK), Signer([SECRET]), timeout_seconds=PATIENCE, concurrency=4)
    async with asyncio.timeout(SECONDS):
        try:
            return await sender.send(url, "id-1", "{}")
        finally:
            await sender.close()


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_retry_after_date_is_relative_to_the_date_of_the_answer(hours: int) -> None:
    """The clocks differ by hours; the delay is the difference of the answer's two dates."""
    provider_clock = datetime.now(UTC) + timedelta(hours=hours)
    dates = [format_datetime(at, usegmt=True) for at in (provider_clock, provider_clock + timedelta(seconds=90))]
    head = "HTTP/1.1 503 Later\r\nDate: {}\r\nRetry-After: {}\r\nContent-Length: 0\r\n\r\n".format(*dates).encode()
    async with _answering(head) as url:
        for outcome in (await _send(url), await _callback(url)):
            assert (outcome.verdict, outcome.retry_after_seconds) == (Verdict.DEFERRED, 90.0)


_VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60)
_OFFSETS = st.integers(-(10**30), 10**30).map(lambda offset: f"Sat, 21 Nov 2026 12:00:30 {offset:+d}")


@settings(max_examples=60, deadline=None)
@given(status=st.integers(200, 599), date=_VALUES | _OFFSETS, wait=_VALUES | _OFFSETS)
@example(status=429, date="Sat, 21 Nov 2026 12:00:30 +99999999999999", wait="Sat, 21 Nov 2026 12:00:30 GMT")
@example(status=503, date="Fri, 31 Dec 9999 23:59:59 -2359", wait="Mon, 01 Jan 0001 00:00:00 -99999999999999")
def test_no_answer_makes_a_send_raise(status: int, date: str, wait: str) -> None:
    head = f"HTTP/1.1 {status} X\r\nDate: {date}\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")

    async def sends() -> list[Outcome]:
        async with _answering(head, then="close") as url:
            return [await _send(url), await _callback(url)]

    for outcome in asyncio.run(sends()):
        assert outcome.provider_code in (status, None)
        assert outcome.retry_after_seconds is None or 0 <= outcome.retry_after_seconds <= 3600
