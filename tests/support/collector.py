"""A collector of spans on loopback: it decodes the OTLP/HTTP requests of real processes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.receiver import Receiver, receiving
from tests.support.waiting import until

# OpenTelemetry's own variables; spans arrive within a tenth of a second.
QUICK_EXPORT = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}


@dataclass(frozen=True)
class Span:
    """One exported span; ids in hexadecimal. `service`: the process that ended it. `links`: the ids of linked spans."""

    name: str
    trace: str
    id: str
    parent: str
    service: str
    attributes: dict[str, Any]
    links: tuple[str, ...]


@dataclass
class Collector:
    """The spans that have arrived."""

    receiver: Receiver

    @property
    def url(self) -> str:
        return self.receiver.url

    def spans(self, trace: str | None = None) -> list[Span]:
        """The spans of one trace, or all."""
        found = [span for request in self.receiver.received for span in _decode(request.body)]
        return [span for span in found if trace in (None, span.trace)]

    async def until(self, trace: str, condition: Callable[[list[Span]], bool]) -> list[Span]:
        """Wait until the spans of a trace satisfy the condition."""
        return await until(lambda: self.spans(trace), condition)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector."""
    async with receiving(answer=200) as receiver:
        yield Collector(receiver)


def _decode(body: bytes) -> list[Span]:
    spans = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = next(each.value.string_value for each in resource.resource.attributes if each.key == "service.name")
        spans += [_span(span, service) for scope in resource.scope_spans for span in scope.spans]
    return spans


def _span(span: Any, service: str) -> Span:
    attributes = {each.key.removeprefix("posthaste."): _value(each.value) for each in span.attributes}
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return Span(span.name, *ids, service, attributes, tuple(link.span_id.hex() for link in span.links))


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
