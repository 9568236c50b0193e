"""The frequent operations, without Starlette's middleware and routing.

Accepting a message and reading its status are nearly all requests. Starlette's stack and its search for a route take a third
of the processor time of a status.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api.answers import JOB_ID
from api.operations import OperationApplication
from api.problems import answer_to


class _Frequent(NamedTuple):
    route: Route
    application: OperationApplication


class FrequentOperations:
    """Answers the requests of these routes as `app` would, and passes all others on.

    The only parameter of a path is `{id}`.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]):
        self._app = app
        self._exact: dict[tuple[str, str], _Frequent] = {}
        self._by_id: list[tuple[re.Pattern[str], frozenset[str], _Frequent]] = []
        for route in routes:
            assert isinstance(route.app, OperationApplication)
            frequent = _Frequent(route, route.app)
            if "{" not in route.path:
                self._exact |= {(method, route.path): frequent for method in route.methods or ()}
            else:
                pattern = re.compile(route.path.replace("{id:job}", f"(?P<id>{JOB_ID})"))
                self._by_id.append((pattern, frozenset(route.methods or ()), frequent))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found, parameters = self._find(scope) if scope["type"] == "http" else (None, {})
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], scope["endpoint"], scope["path_params"] = found.route, found.application, parameters
        request = Request(scope, receive, send)
        try:
            response = await found.application.endpoint(request)
        except Exception as error:  # noqa: BLE001  every error has an answer, a defect a 500 and its log line
            response = await answer_to(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[_Frequent | None, dict[str, UUID]]:
        method, path = scope["method"], scope["path"]
        if (exact := self._exact.get((method, path))) is not None:
            return exact, {}
        for pattern, methods, frequent in self._by_id:
            if method in methods and (match := pattern.fullmatch(path)) is not None:
                return frequent, {"id": UUID(match["id"])}
        return None, {}
