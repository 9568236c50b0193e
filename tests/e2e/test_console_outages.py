"""The console while a service is down, and the ends of its streams."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.keys import new_key
from tests.support.console import Answer, Visitor, visitor
from tests.support.keys import create_key, key_store, until_keys_required
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually, until

LIST = "/console/messages"


@pytest.fixture
async def browser(stack: Stack) -> AsyncIterator[Visitor]:
    async with visitor(stack.base) as opened:
        yield opened


async def _overview(browser: Visitor, words: str, *, shown: bool = True) -> Answer:
    page = await eventually(lambda: browser.get("/"), lambda page: (words in page.words) is shown)
    assert page.status == 200
    return page


@pytest.mark.parametrize("how", ["refuse", "freeze"])
async def test_without_postgres_pages_name_it_and_the_overview_continues(stack: Stack, browser: Visitor, how: str) -> None:
    key = await create_key(stack, "ops", "--scope", "admin")
    await until_keys_required(stack)
    await browser.sign_in(key)
    id_ = "0190163d-8694-739b-aea5-966c26f8ad91"
    proxy = stack.proxies["postgres"]
    await (proxy.refuse() if how == "refuse" else proxy.freeze())
    for path in (LIST, f"{LIST}/{id_}", f"{LIST}/{id_}/events"):
        page = await browser.get(path)
        assert page.status == 503 and page.headers["Retry-After"] == "1", path
        assert "Postgres does not answer" in page.words and "The overview still shows rates" in page.words
        assert "Overview" in page.words and "ops" in page.words  # the layout stays
    assert (await browser.get("/console/settings")).status == 200
    page = await _overview(browser, "Postgres does not answer")
    assert "The API answers 503 to new messages" in page.words
    assert (await browser.post("/console/theme", {"theme": "dark", "next": "/"})).status == 303
    async with visitor(stack.base) as stranger:
        await stranger.get("/console/sign-in")
        refused = await stranger.post("/console/sign-in", {"key": new_key().key})
        assert refused.status == 503 and "Postgres does not answer" in refused.words
    await (proxy.accept() if how == "refuse" else proxy.thaw())
    await _overview(browser, "Postgres does not answer", shown=False)
    await eventually(lambda: browser.get(LIST), lambda page: page.status == 200)


@pytest.mark.parametrize(
    ("service", "title", "text"),
    [
        ("redis", "Redis does not answer", "Rates and processes are unknown"),
        ("rabbitmq", "RabbitMQ does not answer", "Sending pauses, and resumes automatically"),
    ],
)
async def test_without_redis_or_rabbitmq_every_page_continues(
    stack: Stack, browser: Visitor, service: str, title: str, text: str
) -> None:
    id_ = await stack.submit()
    await stack.becomes(id_, "sent")
    await stack.proxies[service].refuse()
    page = await _overview(browser, title)
    assert text in page.words and "messages.sandbox.normal" in page.words
    for path in (LIST, f"{LIST}/{id_}", "/console/settings"):
        assert (await browser.get(path)).status == 200
    await stack.proxies[service].accept()
    await _overview(browser, title, shown=False)


async def test_streams_follow_the_installation_until_the_key_is_revoked(stack: Stack, browser: Visitor) -> None:
    key = await create_key(stack, "shop")
    await until_keys_required(stack)
    await browser.sign_in(key)
    events: list[tuple[str, str]] = []

    async def follow() -> None:
        async for event in browser.events("/console/overview/events"):
            events.append(event)

    following = asyncio.create_task(follow())
    await until(lambda: events, lambda events: [name for name, _ in events[:6]] == ["now", "rates", "details"] * 2)
    assert "Dead letters" in events[0][1] and "<html" not in events[0][1] and "messages.sandbox.normal" in events[2][1]
    await stack.proxies["rabbitmq"].refuse()
    await until(lambda: events, lambda events: any("RabbitMQ does not answer" in text for _, text in events))
    async with key_store(stack) as store:
        await store.revoke(key[:11], 10)
    await asyncio.wait_for(following, 20)
    assert events[-1][0] == "ended" and "Your session has ended" in events[-2][1]


async def test_the_streams_of_a_key_are_limited_and_end_with_the_process(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(
        services, database, broker_namespace, tmp_path, waiting_per_key="2", shutdown_grace_seconds="25"
    ) as stack:
        key = await create_key(stack, "shop")
        await until_keys_required(stack)
        async with visitor(stack.base) as browser:
            await browser.sign_in(key)
            path, session = f"{stack.base}/console/overview/events", browser.session
            async with session.get(path) as first, session.get(path) as second:
                for stream in (first, second):
                    assert stream.status == 200 and await stream.content.readline() == b"event: now\n"
                third = await browser.get("/console/overview/events")
                assert third.status == 429 and "waiting or streaming requests" in third.words
                stack.processes["api"].signal(signal.SIGTERM)
                started = time.monotonic()
                assert await stack.processes["api"].wait(60) in (0, -signal.SIGTERM)
                assert time.monotonic() - started < 20  # the streams do not use up the grace
                for stream in (first, second):
                    await stream.read()  # complete
                assert "error" not in stack.processes["api"].output()
