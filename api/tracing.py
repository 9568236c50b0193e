"""The client's trace: `traceparent` of a request becomes the context of its handling (W3C Trace Context)."""

from opentelemetry import context
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.tracing import HEADER, context_of

_HEADER = HEADER.encode()


class TraceContext:
    """Middleware of a process with tracing. A repeated or malformed header is ignored: the job begins a trace of its own."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        values = [value for name, value in scope.get("headers", ()) if name == _HEADER]
        token = context.attach(context_of(values[0].decode("latin-1") if len(values) == 1 else None))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)
