"""Metrics: bounded labels, the vital signs of a process, and the relay's sample."""

import asyncio
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.mmap_dict import MmapedDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from api.measured import measure
from api.middleware import AnswerHeaders
from infra.errors import Transient
from infra.monitoring import SHARED_FOLDER_VARIABLE, exposition, metrics
from infra.rabbitmq.publisher import NotPublished
from service.batching import Batcher, ledger_batcher
from service.figures import DeadLetterFigures, LedgerFigures, QueueFigures
from service.ledger_metrics import LedgerMetrics
from service.publishing import count_published
from service.vitals import Vitals, connected, failure
from tests.support.asgi import started
from tests.support.waiting import until

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_names_and_units_follow_the_conventions() -> None:
    for metric in metrics.OBJECTS:
        (family,) = metric.describe()
        assert family.name.startswith("posthaste_") and family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_items"))


@pytest.fixture
def application() -> Iterator[AnswerHeaders]:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.path_params.get("id", ""))

    yield AnswerHeaders(Starlette(routes=[Route("/things/{id}", answer)]), measure)


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/things/1", ("GET", "/things/{id}", "2xx")),
        ("GET", "/things/2", ("GET", "/things/{id}", "2xx")),
        ("DELETE", "/things/1", ("DELETE", "/things/{id}", "4xx")),
        ("BREW", "/things/1", ("other", "/things/{id}", "4xx")),
        ("GET", "/no/such/path", ("GET", "unmatched", "4xx")),
    ],
)
async def test_requests_are_counted_by_template_and_class(
    application: AnswerHeaders, method: str, path: str, labels: tuple[str, str, str]
) -> None:
    named = dict(zip(("method", "route", "status"), labels, strict=True))
    before = value("posthaste_http_request_duration_seconds_count", **named)
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "root_path": ""}

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    async def send(message: object) -> None:
        pass

    async with started(application):
        await application(scope, receive, send)
    assert value("posthaste_http_request_duration_seconds_count", **named) == before + 1


async def test_a_process_exposes_what_it_reaches() -> None:
    broker, answers = asyncio.Event(), True

    async def redis() -> None:
        if not answers:
            raise Transient("no answer")

    checks = {"test-rabbitmq": connected(broker), "test-redis": lambda: failure(redis())}
    lag = value("posthaste_event_loop_lag_seconds_count")
    task = asyncio.create_task(Vitals(checks).run())
    await until(lambda: value("posthaste_dependency_up", dependency="test-redis"), lambda up: up == 1)
    assert value("posthaste_dependency_up", dependency="test-rabbitmq") == 0
    answers = False
    broker.set()
    await until(lambda: value("posthaste_dependency_up", dependency="test-redis"), lambda up: up == 0)
    assert value("posthaste_dependency_up", dependency="test-rabbitmq") == 1
    assert value("posthaste_event_loop_lag_seconds_count") > lag
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_the_relays_sample_is_exposed_until_it_ends() -> None:
    leading = True
    exposed = LedgerMetrics(lambda: leading)

    def samples() -> dict[tuple[str, ...], float]:
        found = [sample for family in exposed.collect() for sample in family.samples]
        return {(sample.name.removeprefix("posthaste_"), *sample.labels.values()): sample.value for sample in found}

    queues = [QueueFigures("messages.a.b.high", 3, 7.5), QueueFigures("reports", 0, None)]
    letters = [DeadLetterFigures("report", None, "report_timeout", 2)]
    exposed.observe(LedgerFigures(NOON, queues, letters, 4, 5, None, {"a.b": NOON}))
    assert samples() == {
        ("relay_active",): 1,
        ("queue_waiting_jobs", "messages.a.b.high", "a.b"): 3,
        ("queue_oldest_seconds", "messages.a.b.high", "a.b"): 7.5,
        ("queue_waiting_jobs", "reports", ""): 0,
        ("queue_oldest_seconds", "reports", ""): 0,
        ("dead_letters", "report", "", "report_timeout"): 2,
        ("jobs_processing",): 4,
        ("outbox_due_rows",): 5,
        ("outbox_oldest_seconds",): 0,
        ("provider_paused", "a.b"): 1,
        ("ledger_sample_timestamp_seconds",): NOON.timestamp(),
    }
    leading = False
    exposed.observe(None)
    assert samples() == {("relay_active",): 0}


def test_published_messages_are_counted_by_the_brokers_answer() -> None:
    def counts() -> tuple[float, ...]:
        of = "posthaste_published_messages_total"
        return tuple(value(of, publisher="test", result=result) for result in ("confirmed", "unconfirmed"))

    count_published("test", [None, NotPublished("rejected"), None])
    assert counts() == (2, 1)


async def test_the_sizes_of_named_batches_are_observed() -> None:
    async def flush(items: object, timeout: float) -> list[None]:
        return [None] * len(items)  # type: ignore[arg-type]

    batcher: Batcher[int, None] = ledger_batcher(flush, name="test")
    await asyncio.gather(*(batcher.submit(number) for number in range(5)))
    assert value("posthaste_batch_size_items_sum", batcher="test") == 5


@pytest.mark.parametrize(
    ("accept", "media_type", "end"),
    [
        ("", "text/plain", b"\n"),
        ("application/openmetrics-text", "application/openmetrics-text", b"# EOF\n"),
        ("text/plain; version=abc", "text/plain", b"\n"),
        ("text/plain; version=1.x", "text/plain", b"\n"),
        ("application/openmetrics-text; version=", "application/openmetrics-text", b"# EOF\n"),
        ("application/openmetrics-text; version=abc", "text/plain", b"\n"),
    ],
)
def test_the_exposition_has_the_form_that_is_asked_for(accept: str, media_type: str, end: bytes) -> None:
    body, found = exposition.render(accept)
    assert found.startswith(media_type) and body.endswith(end)


@pytest.fixture
def gauges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The files of two gauges: of this process, and of another one."""
    monkeypatch.setenv(SHARED_FOLDER_VARIABLE, str(tmp_path))
    own, other = (tmp_path / f"gauge_livemin_{pid}.db" for pid in (os.getpid(), os.getpid() + 1))
    for file in (own, other):
        MmapedDict(str(file)).close()  # type: ignore[no-untyped-call]
    return own, other


def _kill(error: type[OSError]) -> Callable[[int, int], None]:
    """`os.kill` that fails for other processes."""

    def kill(pid: int, signal: int) -> None:
        assert signal == 0
        if pid != os.getpid():
            raise error

    return kill


def test_a_process_of_another_user_keeps_its_gauges(gauges: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", _kill(PermissionError))
    exposition.render("")
    assert [file.exists() for file in gauges] == [True, True]


def test_two_processes_may_drop_the_gauges_of_a_dead_one(gauges: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    remove = os.remove

    def remove_after_another(path: str) -> None:
        for _ in range(2):
            remove(path)

    monkeypatch.setattr(os, "kill", _kill(ProcessLookupError))
    monkeypatch.setattr(os, "remove", remove_after_another)
    monkeypatch.setattr(os, "unlink", remove_after_another)
    exposition.render("")
    assert [file.exists() for file in gauges] == [True, False]
