"""Callbacks over real sockets: allowed addresses, signatures, the outcome of each answer, hostile receivers."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import Webhook, WebhookVerificationError

from infra.webhooks.guard import Guard
from infra.webhooks.sender import REFUSED, CallbackSender
from infra.webhooks.signing import Signer, check_secret, new_secret
from jobs.outcome import Outcome, Verdict
from tests.support.receiver import LOOPBACK, OTHER_SECRET, SECRET, receiving

EVENT = '{"type": "message.sent", "timestamp": "2026-11-22T00:00:00.000Z", "data": {"sequence": 3, "name": "é 😀"}}'
TIMEOUT = 3.0


class Names(AbstractResolver):
    """A resolver that gives the next of `answers` for each lookup, and repeats the last."""

    def __init__(self, *answers: Sequence[str]):
        self.answers = list(answers)
        self.lookups = 0

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.lookups += 1
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [_resolved(host, address, port) for address in addresses]

    async def close(self) -> None:
        pass


def _resolved(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)


@asynccontextmanager
async def _sender(
    guard: Guard | None = None, resolver: AbstractResolver | None = None, secrets: Sequence[str] = (SECRET,)
) -> AsyncIterator[CallbackSender]:
    sender = CallbackSender(guard or Guard(LOOPBACK), Signer(secrets), timeout_seconds=TIMEOUT, concurrency=4, names=resolver)
    try:
        yield sender
    finally:
        await sender.close()


async def _send(url: str, *, guard: Guard | None = None, resolver: AbstractResolver | None = None) -> Outcome:
    async with _sender(guard, resolver) as sender:
        return await sender.send(url, "id-1", EVENT)


async def test_the_reference_verifier_takes_our_callbacks() -> None:
    async with receiving() as receiver:
        outcome = await _send(receiver.url + "/hook?a=%20b")
    (request,) = receiver.received
    assert outcome == Outcome(Verdict.ACCEPTED, None, 204)
    assert (request.id, request.path, request.headers["content-type"]) == ("id-1", "/hook?a=%20b", "application/json")
    assert request.verified()["data"]["name"] == "é 😀"
    assert request.body == EVENT.encode()


async def test_the_reference_verifier_refuses_what_is_not_ours() -> None:
    async with receiving() as receiver:
        await _send(receiver.url)
    (request,) = receiver.received
    reference = Webhook(SECRET)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        reference.verify(request.body.replace(b"3", b"4"), request.headers)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        reference.verify(request.body, {**request.headers, "webhook-id": "id-2"})
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(OTHER_SECRET).verify(request.body, request.headers)
    earlier = int(request.headers["webhook-timestamp"]) - 1
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        reference.verify(request.body, {**request.headers, "webhook-timestamp": str(earlier)})


async def test_the_reference_verifier_refuses_an_old_timestamp_however_well_signed() -> None:
    for age, error in ((timedelta(minutes=6), "too old"), (timedelta(minutes=-6), "too new")):
        headers = Signer([SECRET]).headers("id-1", datetime.now(UTC) - age, EVENT)
        with pytest.raises(WebhookVerificationError, match=error):
            Webhook(SECRET).verify(EVENT, headers)


async def test_a_secret_is_rotated_without_a_gap() -> None:
    """The sender's secrets at each step of a rotation, and the receivers that verify them."""
    old, new = SECRET, new_secret()
    steps = [([old], True, False), ([new, old], True, True), ([new], False, True)]
    for secrets, with_old, with_new in steps:
        async with receiving() as receiver, _sender(secrets=secrets) as sender:
            await sender.send(receiver.url, "id-1", EVENT)
        (request,) = receiver.received
        assert len(request.headers["webhook-signature"].split(" ")) == len(secrets)
        for secret, well in ((old, with_old), (new, with_new)):
            try:
                request.verified(secret)
            except WebhookVerificationError:
                assert not well
            else:
                assert well


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!" + "a" * 40])
def test_a_secret_that_is_none_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match="must be whsec_ and the base64 of 24 to 64 bytes") as refused:
        check_secret(secret)
    assert not secret or secret == "whsec_" or secret not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "verdict", "reason"),
    [
        (200, Verdict.ACCEPTED, None),
        (204, Verdict.ACCEPTED, None),
        (299, Verdict.ACCEPTED, None),
        (301, Verdict.RETRYABLE, "http_301"),
        (308, Verdict.RETRYABLE, "http_308"),
        (400, Verdict.RETRYABLE, "http_400"),
        (404, Verdict.RETRYABLE, "http_404"),
        (410, Verdict.REJECTED, "http_410"),
        (429, Verdict.DEFERRED, "http_429"),
        (500, Verdict.RETRYABLE, "http_500"),
        (503, Verdict.RETRYABLE, "http_503"),
    ],
)
async def test_each_answer_has_its_outcome(status: int, verdict: Verdict, reason: str | None) -> None:
    async with receiving(answer=status) as receiver:
        outcome = await _send(receiver.url)
    assert (outcome.verdict, outcome.reason, outcome.provider_code) == (verdict, reason, status)
    assert len(receiver.received) == 1


async def test_a_receiver_that_sends_retry_after_defers_its_callback() -> None:
    async def later(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "7"})

    async with receiving(answers=[later]) as receiver:
        outcome = await _send(receiver.url)
    assert (outcome.verdict, outcome.retry_after_seconds) == (Verdict.DEFERRED, 7.0)


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as inside, receiving() as receiver:

        async def away(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": inside.url})

        receiver.answers = [away]
        outcome = await _send(receiver.url)
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRYABLE, "http_307")
    assert not inside.received


# Addresses that a name may resolve to, and that must not be called.
INSIDE = [
    ["127.0.0.1"],
    ["::1"],
    ["10.0.0.1"],
    ["169.254.169.254"],
    ["172.17.0.1"],
    ["192.168.0.1"],
    ["100.64.0.1"],
    ["0.0.0.0"],
    ["::"],
    ["::ffff:127.0.0.1"],
    ["64:ff9b::7f00:1"],
    ["2002:7f00:1::"],
    ["fe80::1"],
    ["fd00::1"],
    ["224.0.0.1"],
    ["8.8.8.8", "127.0.0.1"],  # one good address does not excuse the other
]


@pytest.mark.parametrize("addresses", INSIDE)
async def test_a_name_that_leads_inside_is_refused_at_connect(addresses: list[str]) -> None:
    names = Names(addresses)
    outcome = await _send("http://innocent.example/", guard=Guard(), resolver=names)
    assert outcome == REFUSED
    assert names.lookups == 1


async def test_a_name_that_leads_to_an_odd_port_is_refused_at_connect() -> None:
    guard = Guard([ip_network("10.1.0.0/16")])
    assert await _send("http://innocent.example:22/", guard=guard, resolver=Names(["8.8.8.8"])) == REFUSED


async def test_a_name_that_changes_its_address_is_judged_by_the_current_one() -> None:
    """The name is public when checked and internal when called: the address of the connection counts."""
    names = Names(["192.0.2.1"], ["127.0.0.1"])
    async with receiving() as receiver:
        first = await names.resolve("rebinding.example", receiver.port)  # an earlier lookup
        assert first[0]["host"] == "192.0.2.1"
        guard = Guard(ports=[receiver.port])
        assert await _send(f"http://rebinding.example:{receiver.port}/", guard=guard, resolver=names) == REFUSED
    assert not receiver.received


async def test_an_address_that_no_resolver_saw_is_refused_at_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last defence: the address is checked even if text and name passed."""
    async with receiving() as receiver:
        guard = Guard(ports=[receiver.port])
        monkeypatch.setattr(guard, "check", lambda url: None)
        assert await _send(receiver.url, guard=guard) == REFUSED
    assert not receiver.received


async def test_a_url_that_was_accepted_under_a_longer_allow_list_is_refused() -> None:
    async with receiving() as receiver:
        assert await _send(receiver.url, guard=Guard()) == REFUSED
    assert not receiver.received


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        await _send(receiver.url)
    assert (len(proxy.received), len(receiver.received)) == (0, 1)


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=200, headers={"Content-Length": "1000000"})
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def _forever(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=200)
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65_536)


async def _bomb(request: web.Request) -> web.StreamResponse:
    return web.Response(body=gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("answer", [_drip, _forever, _bomb])
async def test_an_answer_is_not_read_beyond_its_status(answer: object) -> None:
    async with receiving(answers=[answer]) as receiver, asyncio.timeout(TIMEOUT * 5):
        outcome = await _send(receiver.url)
    assert outcome.verdict is Verdict.ACCEPTED


async def _raw(lines: bytes, url_path: str = "/") -> Outcome:
    """The outcome if the receiver sends these bytes, one per 50 ms after the first line, and then hangs."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in (lines[:12], *(lines[n : n + 1] for n in range(12, len(lines)))):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.05 if len(lines) < 10_000 else 0)
            await asyncio.sleep(60)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the sender has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        return await _send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{url_path}")


async def test_headers_that_drip_or_never_end_are_given_up_in_time() -> None:
    async with asyncio.timeout(TIMEOUT * 10):
        assert (await _raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000)).reason == "timeout"
        assert (await _raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000)).verdict is Verdict.UNKNOWN
        assert (await _raw(b"nonsense, and more of it\r\n\r\n")).reason == "connection_lost"


async def test_callbacks_to_a_hanging_or_absent_receiver_are_retried() -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with receiving(answers=[hang]) as receiver:
        assert (await _send(receiver.url)).reason == "timeout"
    answer = await _send(receiver.url)
    assert (answer.verdict, answer.reason, answer.surely_not_sent) == (Verdict.RETRYABLE, "no_connection", True)


async def test_a_receiver_without_tls_gets_no_callback_in_plain_text() -> None:
    async with receiving() as plain:
        outcome = await _send(plain.url.replace("http://", "https://"))  # it does not even speak TLS
    assert (outcome.verdict, outcome.reason, outcome.surely_not_sent) == (Verdict.RETRYABLE, "tls_failed", True)


async def test_connections_are_used_again() -> None:
    peers: set[object] = set()

    async def noted(request: web.Request) -> web.Response:
        peers.add(request.transport.get_extra_info("peername") if request.transport else None)
        return web.Response(status=204)

    async with receiving(answers=[noted] * 5) as receiver, _sender() as sender:
        for n in range(5):
            await sender.send(receiver.url, f"id-{n}", EVENT)
    assert len(peers) == 1
