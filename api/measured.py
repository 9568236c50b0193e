"""The duration of each request, by its route."""

import time

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.monitoring import metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"  # the route of paths that do not exist


class MeasuredRequests:
    """Measures the time from a request's arrival to the start of its answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                labels = _method(scope["method"]), _route(scope), f"{message['status'] // 100}xx"
                metrics.HTTP_SECONDS[labels].observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, send_measured)


def _method(method: str) -> str:
    return method if method in _METHODS else "other"


def _route(scope: Scope) -> str:
    """The template of the request's route, without the types of its parameters."""
    route = scope.get("route")
    return route.path.replace(":job}", "}") if isinstance(route, Route) else UNMATCHED
