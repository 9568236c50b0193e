"""Spans of batches, the absence of tracing, and a collector that does not answer."""

import sys
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from infra import tracing
from infra.logs import OutageLog
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import describe
from infra.tracing import Tracing, context_of, current_traceparent
from service.settings import Settings, SettingsError
from service.tracing import create_publisher, start_tracing, trace_recorder

FIRST, SECOND = f"00-{'1' * 32}-{'a' * 16}-01", f"00-{'2' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'3' * 32}-{'c' * 16}-00"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def _settings(**fields: Any) -> Settings:
    return Settings(database_url="postgresql:///x", amqp_url="amqp://x/", redis_url="redis://x", **fields)


def test_a_batch_is_a_child_of_its_first_sampled_trace_and_linked_to_the_others(
    spans: Tracing, exporter: InMemorySpanExporter
) -> None:
    with spans.batch("publish", [None, UNSAMPLED, FIRST, SECOND, FIRST], messages=5):
        pass
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None and f"{span.parent.trace_id:x}" == "1" * 32
    assert [f"{link.context.trace_id:x}" for link in span.links] == ["2" * 32]
    assert span.attributes == {"posthaste.messages": 5}


@pytest.mark.parametrize("traceparents", [[], [None], [UNSAMPLED, None]])
def test_a_batch_without_a_sampled_trace_has_no_span(
    spans: Tracing, exporter: InMemorySpanExporter, traceparents: list[str | None]
) -> None:
    with spans.batch("publish", traceparents):
        pass
    assert exporter.get_finished_spans() == ()


def test_a_span_continues_the_stored_trace_from_an_earlier_instant(spans: Tracing, exporter: InMemorySpanExporter) -> None:
    with spans.span("attempt", context_of(FIRST), started=time.monotonic() - 3, reason=None):
        inner = current_traceparent()
    (span,) = exporter.get_finished_spans()
    assert span.start_time is not None and span.end_time is not None
    assert 2.9e9 < span.end_time - span.start_time < 60e9
    assert inner is not None and inner.startswith(f"00-{'1' * 32}-") and not span.attributes


def test_without_tracing_a_process_has_the_plain_classes() -> None:
    """Tracing that is off costs a message nothing: no class of it is on the message's way."""
    recorder: Any = object()
    assert start_tracing(_settings(), "worker") is None
    assert trace_recorder(recorder, None) is recorder
    assert type(create_publisher("amqp://x/", describe("x", []), name="x", tracing=None)) is Publisher


def test_a_missing_extra_ends_the_start_with_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"POSTHASTE_TRACING: needs the extra `tracing`"):
        start_tracing(_settings(tracing="otlp"), "worker")


def test_a_collector_that_is_down_delays_no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    started = tracing.start("worker")
    with started.span("attempt"):
        pass
    before = time.monotonic()
    started.close()
    assert time.monotonic() - before < tracing.CLOSE_SECONDS + 2


def test_an_outage_of_the_collector_is_logged_once_with_its_end() -> None:
    now, results = [0.0], [SpanExportResult.FAILURE] * 3 + [SpanExportResult.SUCCESS]

    class Exporter(InMemorySpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            now[0] += 1
            return results.pop(0)

    logged = tracing._logged(Exporter(), OutageLog("tracing", "spans are dropped", monotonic=lambda: now[0]))
    with capture_logs() as lines:
        while results:
            logged.export([])
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == ["tracing.down", "tracing.up"]
