"""Traces by OpenTelemetry: the spans of one process, and the `traceparent` that carries a trace to the next process.

OpenTelemetry's own variables configure exporter and sampler (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …). A process
without tracing has no `Tracing`: its composition root builds the plain classes, so a message pays nothing.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from infra.logs import OutageLog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

HEADER = "traceparent"  # W3C Trace Context; its tracestate is not kept
CLOSE_SECONDS = 2.0
_FORMAT = TraceContextTextMapPropagator()


class TracingUnavailable(Exception):
    """The extra `tracing` is not installed."""


def context_of(traceparent: str | None) -> Context:
    """The context in which spans continue this trace. Without a valid value a span begins a trace of its own."""
    return _FORMAT.extract({} if traceparent is None else {HEADER: traceparent}, context=Context())


def current_traceparent() -> str | None:
    """The traceparent of the current span; None without one."""
    carrier: dict[str, str] = {}
    _FORMAT.inject(carrier)
    return carrier.get(HEADER)


def trace_headers() -> Mapping[str, str]:
    """The headers of an outgoing request that continue the current trace."""
    traceparent = current_traceparent()
    return {} if traceparent is None else {HEADER: traceparent}


class Tracing:
    """The spans of one process. A finished span is exported in a thread of the SDK."""

    def __init__(self, provider: "TracerProvider"):
        self._provider = provider
        self._tracer = provider.get_tracer("posthaste")

    def span(
        self,
        name: str,
        context: Context | None = None,
        *,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        started: float | None = None,
        links: Sequence[trace.Link] = (),
        **attributes: Any,
    ) -> AbstractContextManager[trace.Span]:
        """A span that is current within `with`. `context`: None continues the current span. `started`: monotonic seconds.

        Attributes get the prefix `posthaste.`; those without a value are left out.
        """
        began = None if started is None else time.time_ns() - int((time.monotonic() - started) * 1e9)
        return self._tracer.start_as_current_span(
            name, context, kind=kind, start_time=began, links=links, attributes=_prefixed(attributes)
        )

    def batch(self, name: str, traceparents: Iterable[str | None], **attributes: Any) -> AbstractContextManager[object]:
        """One span for a batch: a child of the first sampled trace, linked to the others. Unsampled batches have none."""
        different = dict.fromkeys(value for value in traceparents if value is not None)
        spans = [trace.get_current_span(context_of(value)).get_span_context() for value in different]
        sampled = [span for span in spans if span.trace_flags.sampled]
        if not sampled:
            return nullcontext()
        parent = trace.set_span_in_context(trace.NonRecordingSpan(sampled[0]), Context())
        links = [trace.Link(span) for span in sampled[1:]]
        return self.span(name, parent, kind=trace.SpanKind.PRODUCER, links=links, **attributes)

    def close(self) -> None:
        """Export the finished spans, within `CLOSE_SECONDS`: a collector that does not answer must not delay the exit."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)


def annotate(span: trace.Span, **attributes: Any) -> None:
    """Set attributes, as `Tracing.span` does."""
    span.set_attributes(_prefixed(attributes))


def _prefixed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"posthaste.{name}": value for name, value in attributes.items() if value is not None}


def start(role: str) -> Tracing:
    """Start to export spans over OTLP/HTTP; `role` names the process. Raises `TracingUnavailable`."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingUnavailable("needs the extra `tracing`: pip install 'posthaste[tracing]'") from error
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # `_logged` logs an outage once
    resource = Resource.create({"service.name": f"posthaste-{role}", "host.name": socket.gethostname()})
    variables = OTELResourceDetector().detect()  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    provider = TracerProvider(resource=resource.merge(variables), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_logged(OTLPSpanExporter(), OutageLog("tracing", "spans are dropped"))))
    return Tracing(provider)


def _logged(exporter: "SpanExporter", outage: OutageLog) -> "SpanExporter":
    """The exporter, with a log line for the start and the end of an outage of the collector."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Logged(SpanExporter):
        def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
            result = exporter.export(spans)
            if result is SpanExportResult.SUCCESS:
                outage.succeeded()
            else:
                outage.failed(ConnectionError("the collector does not accept spans"))
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Logged()
