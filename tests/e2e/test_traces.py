"""Traces across real processes: one trace from the request to the callback, through retries, crashes and the relay."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from infra.tracing import HEADER
from tests.support.collector import QUICK_EXPORT, Collector, Span, collecting
from tests.support.receiver import CALLBACKS_ON, Receiver, receiving
from tests.support.services import Services
from tests.support.stack import MESSAGE, Stack, running
from tests.support.waiting import until

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CLIENT}-01", f"00-{'1' * 32}-{CLIENT}-00"


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as started:
        for name, value in {**QUICK_EXPORT, "OTEL_EXPORTER_OTLP_ENDPOINT": started.url}.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
async def provider() -> AsyncIterator[Receiver]:
    async with receiving(answer=200) as started:
        yield started


@pytest.fixture
async def stack(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, collector: Collector, provider: Receiver
) -> AsyncIterator[Stack]:
    described = {"url": f"{provider.url}/message", "timeout_seconds": 20}
    settings = {"tracing": "otlp", "log_format": "json", **CALLBACKS_ON}
    async with running(services, database, broker_namespace, tmp_path, provider=described, **settings) as started:
        yield started


async def _submit(stack: Stack, traceparent: str, **fields: Any) -> str:
    headers = {HEADER: traceparent}
    async with stack.session.post(f"{stack.base}/messages", json={**MESSAGE, **fields}, headers=headers) as response:
        assert response.status == 202
        return str((await response.json())["id"])


def _named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


async def test_one_trace_leads_from_the_request_through_a_retry_to_the_callback(
    stack: Stack, collector: Collector, provider: Receiver
) -> None:
    stack.start("callbacks", "consumers", "callbacks")
    provider.answers = [500]
    id_ = await _submit(stack, SAMPLED, callback_url=f"{provider.url}/hook")
    await until(lambda: len(provider.received), lambda count: count == 3)
    spans = await collector.until(TRACE, lambda found: len(_named(found, "apply")) == 3)
    names = Counter(span.name for span in spans)
    expected = {"accept": 1, "claim and handle": 3, "provider call": 2, "callback": 1, "apply": 3}
    assert {name: names[name] for name in expected} == expected
    assert names["publish"] >= 3 and set(names) == {*expected, "publish"}

    (accept,) = _named(spans, "accept")
    assert (accept.parent, accept.attributes["job_id"], accept.service) == (CLIENT, id_, "posthaste-api")
    attempts = {span.id for span in _named(spans, "claim and handle")}
    assert {span.parent for span in spans if span.id in attempts or span.name == "publish"} == {accept.id}
    calls = [*_named(spans, "provider call"), *_named(spans, "callback")]
    assert {span.parent for span in [*calls, *_named(spans, "apply")]} == attempts
    assert [call.attributes.get("answer") for call in calls] == [500, 200, 200]
    assert {span.service for span in _named(spans, "publish")} >= {"posthaste-api", "posthaste-relay"}
    sent = [received.headers[HEADER] for received in provider.received]
    assert sent == [f"00-{TRACE}-{call.id}-01" for call in calls]
    await stack.processes["worker"].until_logged(f'"trace_id":"{TRACE}"')


async def test_a_trace_survives_the_death_of_the_api_and_of_a_worker(
    stack: Stack, collector: Collector, provider: Receiver
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    provider.answers = [hang]
    await stack.proxies["rabbitmq"].refuse()
    await _submit(stack, SAMPLED)
    await collector.until(TRACE, lambda found: bool(_named(found, "accept")))
    await stack.processes["api"].kill()
    await stack.proxies["rabbitmq"].accept()
    await until(lambda: len(provider.received), lambda count: count == 1)
    await stack.processes["worker"].kill()
    stack.start("worker2", "consumers", "messages")
    spans = await collector.until(TRACE, lambda found: bool(_named(found, "apply")))
    (accept,), (attempt,), (call,) = (_named(spans, name) for name in ("accept", "claim and handle", "provider call"))
    assert (attempt.parent, attempt.attributes["lost_leases"]) == (accept.id, 1)
    assert [received.headers[HEADER][:36] for received in provider.received] == [f"00-{TRACE}-"] * 2
    assert provider.received[1].headers[HEADER] == f"00-{TRACE}-{call.id}-01"
    published = _named(spans, "publish")
    assert {span.service for span in published if span.parent == accept.id} >= {"posthaste-relay"}
    assert "posthaste-api" not in {span.service for span in published}


async def test_a_client_that_does_not_sample_gets_no_spans(stack: Stack, collector: Collector, provider: Receiver) -> None:
    await stack.becomes(await _submit(stack, UNSAMPLED), "sent")
    await stack.becomes(await _submit(stack, SAMPLED), "sent")
    await collector.until(TRACE, lambda found: bool(_named(found, "apply")))
    assert {span.trace for span in collector.spans()} == {TRACE}
    first, second = (received.headers[HEADER] for received in provider.received)
    assert (first[:36], first[-3:]) == (UNSAMPLED[:36], "-00")
    assert (second[:36], second[-3:]) == (SAMPLED[:36], "-01")


async def test_each_malformed_traceparent_begins_a_new_trace(stack: Stack, collector: Collector) -> None:
    headers = ["nonsense", f"00-{'0' * 32}-{CLIENT}-01", f"ff-{TRACE}-{CLIENT}-01", "é", "9" * 4000]
    for header in headers:
        await stack.becomes(await _submit(stack, header), "sent")
    spans = await until(collector.spans, lambda found: len(_named(found, "accept")) == len(headers))
    accepts = _named(spans, "accept")
    assert {span.parent for span in accepts} == {""}
    assert len({span.trace for span in accepts} - {TRACE}) == len(headers)


async def test_without_tracing_the_header_is_not_stored_and_not_sent(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, provider: Receiver
) -> None:
    described = {"url": f"{provider.url}/message"}
    async with running(services, database, broker_namespace, tmp_path, provider=described) as stack:
        await stack.becomes(await _submit(stack, SAMPLED), "sent")
        assert stack.rows("SELECT traceparent FROM jobs") == [(None,)]
        assert HEADER not in provider.received[0].headers
