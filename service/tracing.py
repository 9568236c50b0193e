"""Traced acceptance, publishing and recording: the plain classes with a span around their step.

A composition root builds these with tracing, and the plain classes without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from opentelemetry import trace

from infra.postgres.transitions.accept import Accepted
from infra.rabbitmq.confirms import Message
from infra.rabbitmq.publisher import NotPublished, Publisher
from infra.rabbitmq.topology import Topology
from infra.tracing import Tracing, TracingUnavailable, current_traceparent, start
from jobs.model import Claimed, NewJob, Route
from jobs.outcome import Outcome
from jobs.retry import RetryPolicy
from service.settings import Settings, SettingsError
from service.transitions import Acceptance, Recorder


def start_tracing(settings: Settings, role: str) -> Tracing | None:
    """The tracing of one process; None without. Raises `SettingsError`: the extra `tracing` is not installed."""
    if settings.tracing == "off":
        return None
    try:
        return start(role)
    except TracingUnavailable as error:
        raise SettingsError(f"POSTHASTE_TRACING: {error}") from error


class TracedAcceptance(Acceptance):
    """Decorates an acceptance. The ledger keeps the traceparent of the span: every later step of the job continues it."""

    def __init__(self, plain: Acceptance, tracing: Tracing):
        self._plain = plain
        self._tracing = tracing
        self.drained = plain.drained

    async def accept(self, job: NewJob) -> Accepted:
        kind = trace.SpanKind.SERVER
        with self._tracing.span("accept", kind=kind, job_id=str(job.id), queue=job.queue.name, client=job.client_id):
            return await self._plain.accept(replace(job, traceparent=current_traceparent()))


@dataclass(frozen=True)
class TracedRecorder(Recorder):
    """The span is a child of the job's current span."""

    tracing: Tracing = field(kw_only=True)

    async def record(self, job: Claimed, outcome: Outcome, policy: RetryPolicy, *, ran_seconds: float) -> None:
        with self.tracing.span("apply", job_id=str(job.id), version=job.version, outcome=outcome.verdict.value):
            await super().record(job, outcome, policy, ran_seconds=ran_seconds)


class TracedPublisher(Publisher):
    """One span for each batch that waits for its confirms."""

    def __init__(self, url: str, topology: Topology, *, name: str, tracing: Tracing):
        super().__init__(url, topology, name=name)
        self._tracing = tracing

    async def publish(self, route: Route, queue: str, messages: Sequence[Message]) -> list[NotPublished | None]:
        traceparents = [message.traceparent for message in messages]
        with self._tracing.batch("publish", traceparents, queue=queue, route=route.value, messages=len(messages)):
            return await super().publish(route, queue, messages)


def trace_acceptance(plain: Acceptance, tracing: Tracing | None) -> Acceptance:
    """The acceptance of one process."""
    return plain if tracing is None else TracedAcceptance(plain, tracing)


def trace_recorder(plain: Recorder, tracing: Tracing | None) -> Recorder:
    """The recorder of one process."""
    if tracing is None:
        return plain
    return TracedRecorder(**{each.name: getattr(plain, each.name) for each in fields(plain)}, tracing=tracing)


def create_publisher(url: str, topology: Topology, *, name: str, tracing: Tracing | None) -> Publisher:
    """The publisher of one process."""
    if tracing is None:
        return Publisher(url, topology, name=name)
    return TracedPublisher(url, topology, name=name, tracing=tracing)
