"""Host names that never resolve delay only their own calls."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from infra.http_calls import LookUpTimeout, Resolver, ResolverBusy
from infra.providers.http import HttpProvider
from infra.webhooks.guard import Guard
from infra.webhooks.sender import CallbackSender
from infra.webhooks.signing import Signer
from jobs.outcome import Outcome, Verdict
from tests.support.receiver import LOOPBACK, SECRET, receiving
from tests.support.waiting import eventually

SLOTS = 64


class Names:
    """getaddrinfo in which every name under `hangs.example` hangs until the end of the test."""

    def __init__(self, real: Any):
        self.real = real
        self.over = threading.Event()
        self.hanging: list[str] = []

    def __call__(self, host: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(host, str) and host.endswith("hangs.example"):
            self.hanging.append(host)
            self.over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "over")
        return self.real(host, *rest, **named)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    found = Names(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.over.set()


@asynccontextmanager
async def _ending(names: Names) -> AsyncIterator[None]:
    """Release hanging lookups at the end of the test; their threads would delay the loop's end."""
    try:
        yield
    finally:
        names.over.set()


@asynccontextmanager
async def _callbacks(seconds: float) -> AsyncIterator[CallbackSender]:
    sender = CallbackSender(Guard(LOOPBACK), Signer([SECRET]), timeout_seconds=seconds, concurrency=SLOTS)
    try:
        yield sender
    finally:
        await sender.close()


async def _send(url: str, seconds: float = 20.0) -> Outcome:
    provider = HttpProvider(url, timeout_seconds=seconds, concurrency=4)
    try:
        return await provider.send("+1", "hello", "key")
    finally:
        await provider.close()


async def test_hosts_whose_names_hang_do_not_delay_providers_or_other_callbacks(names: Names) -> None:
    """More lookups hang than the default executor has threads; other sends succeed meanwhile."""

    async def read() -> int:
        return len(names.hanging)

    async with receiving(answer=200) as receiver, _callbacks(60) as callbacks, _ending(names):
        calls = [asyncio.create_task(callbacks.send(f"http://{n}.hangs.example/", f"{n}", "{}")) for n in range(SLOTS - 1)]
        await eventually(read, lambda count: count == SLOTS - 1)
        url = receiver.url.replace("127.0.0.1", "localhost")
        async with asyncio.timeout(10):
            assert (await _send(url)).verdict is Verdict.ACCEPTED
            assert (await callbacks.send(url, "id", "{}")).verdict is Verdict.ACCEPTED
        assert not any(call.done() for call in calls)
        names.over.set()
        assert {outcome.reason for outcome in await asyncio.gather(*calls)} == {"no_connection"}


async def test_a_name_that_hangs_is_surely_not_sent(names: Names) -> None:
    async with _callbacks(0.6) as callbacks, _ending(names):
        outcomes = [await callbacks.send("http://hangs.example/", "id", "{}"), await _send("http://hangs.example/", 0.6)]
    assert [outcome.verdict for outcome in outcomes] == [Verdict.RETRYABLE, Verdict.DEFERRED]  # a provider's is uncharged
    for outcome in outcomes:
        assert (outcome.reason, outcome.surely_not_sent, outcome.answered) == ("dns_timeout", True, False)


async def test_a_name_that_hangs_holds_one_thread_however_often_it_is_looked_up(names: Names) -> None:
    resolver = Resolver(threads=2, seconds=0.05)
    for _ in range(5):
        with pytest.raises(LookUpTimeout):
            await resolver.resolve("hangs.example")
    assert names.hanging == ["hangs.example"]
    assert [each["host"] for each in await resolver.resolve("127.0.0.1", 80)] == ["127.0.0.1"]
    with pytest.raises(LookUpTimeout):
        await resolver.resolve("second.hangs.example")
    with pytest.raises(ResolverBusy):
        await resolver.resolve("third.hangs.example")


async def test_without_a_free_thread_a_call_is_deferred_and_not_charged(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.webhooks.sender._MAX_LOOK_UPS", 1)
    async with _callbacks(0.6) as callbacks:
        assert (await callbacks.send("http://one.hangs.example/", "id", "{}")).reason == "dns_timeout"
        busy = await callbacks.send("http://two.hangs.example/", "id", "{}")
    assert (busy.verdict, busy.reason, busy.surely_not_sent) == (Verdict.DEFERRED, "resolver_busy", True)


async def test_a_connection_that_takes_the_whole_time_is_surely_not_sent() -> None:
    """Another call holds the only connection: the second call never sends its request."""

    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with receiving(answers=[hang, hang]) as receiver:
        provider = HttpProvider(receiver.url, timeout_seconds=1, concurrency=1)
        outcomes = await asyncio.gather(*(provider.send("+1", "hello", key) for key in ("a", "b")))
        await provider.close()
    assert [(outcome.reason, outcome.surely_not_sent) for outcome in outcomes] == [
        ("timeout", False),
        ("connect_timeout", True),
    ]
    assert len(receiver.received) == 1
