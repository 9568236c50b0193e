"""Metrics and live figures of real processes."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.ports import free_port
from infra.redis.figures import FiguresStore
from service.figures import Figures, FiguresReader, LedgerSampler
from tests.support.metrics import Scrape, scrape
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually


@dataclass
class Monitored:
    """A stack whose worker and relay serve metrics."""

    stack: Stack
    ports: dict[str, int]

    async def scrape(self, process: str) -> Scrape:
        return await scrape(self.stack.session, self.ports[process])


@pytest.fixture
async def monitored(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Monitored]:
    worker, relay = free_port(), free_port()
    own = {"worker": {"metrics_port": str(worker)}, "relay": {"metrics_port": str(relay)}}
    async with running(services, database, broker_namespace, tmp_path, processes=own) as stack:
        yield Monitored(stack, {"api": stack.port, "worker": worker, "relay": relay})


async def test_a_message_is_seen_in_the_metrics_of_each_process_and_in_the_figures(
    monitored: Monitored, services: Services
) -> None:
    stack = monitored.stack
    for _ in range(3):
        await stack.becomes(await stack.submit(), "sent")
    await stack.get("/no/such/path/1")

    api = await monitored.scrape("api")
    of = {"kind": "message", "provider": "sandbox"}
    assert api.total("posthaste_jobs_accepted_total", **of) == 3
    posts = {"method": "POST", "route": "/messages", "status": "2xx"}
    assert api.total("posthaste_http_request_duration_seconds_count", **posts) == 3
    assert api.total("posthaste_http_request_duration_seconds_count", route="/message/{id}/status", status="2xx") >= 3
    assert api.total("posthaste_http_request_duration_seconds_count", route="unmatched", status="4xx") == 1
    assert api.total("posthaste_cache_reads_total") >= 3
    assert api.total("posthaste_batch_size_items_count", batcher="accept") >= 1

    async def api_metrics() -> Scrape:
        return await monitored.scrape("api")

    await eventually(api_metrics, lambda found: found.values("posthaste_dependency_up") == [1, 1, 1])

    async def worker_metrics() -> Scrape:
        return await monitored.scrape("worker")

    worker = await eventually(worker_metrics, lambda found: found.total("posthaste_job_transitions_total", **of) == 3)
    assert worker.values("posthaste_job_transitions_total", **of, status="sent", reason="") == [3]
    assert worker.total("posthaste_job_time_to_sent_seconds_count", **of) == 3
    assert worker.total("posthaste_provider_call_duration_seconds_count", provider="sandbox", verdict="accepted") == 3
    assert worker.values("posthaste_breaker_state", provider="sandbox", state="closed") == [1]
    assert worker.values("posthaste_breaker_state", provider="sandbox", state="open") == [0]
    assert worker.total("posthaste_published_messages_total") + api.total("posthaste_published_messages_total") >= 3

    async def relay_metrics() -> Scrape:
        return await monitored.scrape("relay")

    relay = await eventually(relay_metrics, lambda found: found.values("posthaste_jobs_processing") == [0])
    assert relay.values("posthaste_relay_active") == [1]
    assert relay.values("posthaste_queue_waiting_jobs", queue="messages.sandbox.normal", provider="sandbox") == [0]
    for found in (api, worker, relay):
        assert found.values("posthaste_build_info") == [1]
        assert found.total("posthaste_event_loop_lag_seconds_count") > 0
        found.check()
    open_metrics = await scrape(stack.session, stack.port, "application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")

    figures = await _figures(services, stack)
    assert {process.role for process in figures.processes} == {"api", "worker", "relay"}
    assert figures.ledger is not None and figures.ledger.dead_letters == []


async def _figures(services: Services, stack: Stack) -> Figures:
    """The figures once the rates show all messages. The relay samples the ledger for this reader."""
    store = FiguresStore(services.redis, namespace=stack.namespace)

    async def never(timeout: float) -> None:
        raise AssertionError("there is a sample of the relay")

    reader = FiguresReader(store, LedgerSampler(never), {})  # type: ignore[arg-type]
    try:
        return await eventually(reader.read, lambda figures: sum(each.sent for each in figures.rates) > 0)
    finally:
        await store.close()


async def test_dead_letters_are_counted_by_reason(monitored: Monitored) -> None:
    stack = monitored.stack
    await stack.faults(fail=1.0, fail_status=400)
    await stack.becomes(await stack.submit(), "failed")

    async def dead() -> list[float]:
        labels = {"kind": "message", "provider": "sandbox", "reason": "http_400"}
        return (await monitored.scrape("relay")).values("posthaste_dead_letters", **labels)

    await eventually(dead, lambda counts: counts == [1])
    worker = await monitored.scrape("worker")
    failed = {"status": "failed", "reason": "http_400", "provider": "sandbox", "kind": "message"}
    assert worker.values("posthaste_job_transitions_total", **failed) == [1]


async def test_a_taken_port_is_an_error_that_names_the_setting(monitored: Monitored) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = monitored.stack.start("second", "consumers", "messages", metrics_port=str(port))
        assert await process.wait() == 1
    output = await process.until_logged("POSTHASTE_METRICS_PORT")
    assert f"127.0.0.1:{port}" in output and "Traceback" not in output


async def test_a_worker_that_ends_leaves_the_figures(monitored: Monitored, services: Services) -> None:
    store = FiguresStore(services.redis, namespace=monitored.stack.namespace)

    async def roles() -> list[str]:
        return sorted(json.loads(state)["role"] for _, state in (await store.read(1)).states)

    await eventually(roles, lambda found: found == ["api", "relay", "worker"])
    worker = monitored.stack.processes["worker"]
    worker.signal(signal.SIGTERM)
    ended = asyncio.create_task(worker.wait())
    await eventually(roles, lambda found: found == ["api", "relay"])
    assert await ended == 0
    await store.close()
