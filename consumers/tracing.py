"""Traced attempts: one span from the claim to the recorded outcome, and one for the call within.

The worker's composition root builds these with tracing. The runner knows nothing of them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry import trace

from consumers.modes import Mode
from consumers.runner import Work
from infra.tracing import Tracing, annotate, context_of
from jobs.model import Claimed, Kind, Progress
from jobs.outcome import Outcome, Verdict

_CALLS = {Kind.MESSAGE: "provider call", Kind.REPORT: "report", Kind.CALLBACK: "callback"}
_ENDS_WELL = (Verdict.ACCEPTED, Verdict.RELEASED, Verdict.DEFERRED)


@dataclass(eq=False)
class TracedMode:
    """A mode whose attempts have a span. It begins before the claim, and continues the trace that the ledger has."""

    mode: Mode
    tracing: Tracing

    def reserve(self, queue: str) -> AbstractAsyncContextManager[None]:
        return self.mode.reserve(queue)

    @asynccontextmanager
    async def isolate(self, job: Claimed, claimed_at: float) -> AsyncIterator[float | None]:
        context, kind = context_of(job.traceparent), trace.SpanKind.CONSUMER
        attributes: dict[str, Any] = {"job_id": str(job.id), "version": job.version, "queue": job.queue.name}
        attributes |= {"attempt": job.attempts + 1, "revision": job.revision, "lost_leases": job.lost_leases or None}
        with self.tracing.span("claim and handle", context, kind=kind, started=claimed_at, **attributes):
            async with self.mode.isolate(job, claimed_at) as leased_at:
                yield leased_at

    async def wait(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        await self.mode.wait(job, progress, call)


def traced(work: Work, kind: Kind, tracing: Tracing) -> Work:
    """The same work, with spans."""
    return replace(work, handler=_handler(work.handler, _CALLS[kind], tracing), mode=TracedMode(work.mode, tracing))


def _handler(
    handler: Callable[[Claimed, Progress], Coroutine[Any, Any, Outcome]], name: str, tracing: Tracing
) -> Callable[[Claimed, Progress], Coroutine[Any, Any, Outcome]]:
    async def handle(job: Claimed, progress: Progress) -> Outcome:
        with tracing.span(name, kind=trace.SpanKind.CLIENT, provider=job.queue.provider) as span:
            outcome = await handler(job, progress)
            annotate(span, outcome=outcome.verdict.value, reason=outcome.reason, answer=outcome.provider_code)
            if outcome.verdict not in _ENDS_WELL:
                span.set_status(trace.StatusCode.ERROR, outcome.reason)
            return outcome

    return handle
