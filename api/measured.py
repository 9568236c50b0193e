"""The duration of each request, by its route."""

import re
from functools import cache

from starlette.routing import Route
from starlette.types import Scope

from infra.monitoring import metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"  # the route of paths that do not exist


def measure(scope: Scope, status: int, seconds: float) -> None:
    """Count a request. `seconds`: from its arrival to the start of its answer."""
    metrics.HTTP_SECONDS[_method(scope["method"]), _route(scope), f"{status // 100}xx"].observe(seconds)


def _method(method: str) -> str:
    return method if method in _METHODS else "other"


def _route(scope: Scope) -> str:
    """The template of the request's route, without the types of its parameters."""
    route = scope.get("route")
    return _template(route.path) if isinstance(route, Route) else UNMATCHED


@cache
def _template(path: str) -> str:
    return re.sub(r":\w+}", "}", path)
