"""Problems: every error answer is RFC 9457 `application/problem+json` with a stable `code` and the request's id."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from api.shapes import FieldProblem, ItemProblem, ProblemOut
from infra.errors import Transient
from infra.postgres.errors import BadData
from service.backlog import BacklogFull
from service.batching import DeadlineExceeded, Overloaded
from service.transitions import KeyTaken

log = structlog.get_logger()

_MAX_ERRORS = 50  # in one problem


@dataclass(eq=False)
class Problem(Exception):
    """An error answer. `headers` are sent with it."""

    status: int
    code: str
    detail: str
    errors: Sequence[FieldProblem] = field(default=(), kw_only=True)
    headers: Mapping[str, str] | None = field(default=None, kw_only=True)


def invalid(*errors: FieldProblem) -> Problem:
    """422 for invalid fields."""
    names = ", ".join(dict.fromkeys(error.pointer for error in errors[:5]))
    return Problem(422, "validation", f"Not valid: {names}.", errors=errors[:_MAX_ERRORS])


def not_found(detail: str = "There is no resource with this path. /docs lists the operations.") -> Problem:
    return Problem(404, "not_found", detail)


def unavailable(detail: str, *, code: str = "unavailable", retry_after: int = 1) -> Problem:
    """503: the client may safely repeat the request later."""
    return Problem(503, code, detail, headers={"Retry-After": str(retry_after)})


# The errors of lower layers. The class nearest to an error decides.
_PROBLEMS: dict[type[Exception], Callable[[Exception], Problem]] = {
    BacklogFull: lambda error: unavailable(f"{error} This request accepted nothing.", code="backlog_full", retry_after=5),
    Overloaded: lambda _: unavailable(
        "Too many requests wait for the database. This request changed nothing.", code="overloaded"
    ),
    DeadlineExceeded: lambda _: unavailable("The database did not answer in time. The outcome of this request is unknown."),
    Transient: lambda _: unavailable("The database does not answer. The outcome of this request is unknown."),
    KeyTaken: lambda _: Problem(
        422, "idempotency_key_reused", "Another request used this Idempotency-Key. This request accepted nothing."
    ),
    BadData: lambda _: Problem(422, "validation", "The database rejects a value of this request."),
}


def problem_from(error: Exception) -> Problem | None:
    """The problem that reports this error. None: the error is a defect."""
    if isinstance(error, Problem):
        return error
    make = next((_PROBLEMS[base] for base in type(error).__mro__ if base in _PROBLEMS), None)
    return make(error) if make else None


def describe(problem: Problem) -> ItemProblem:
    """A problem's members as RFC 9457 names them."""
    described: ItemProblem = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
    }
    if problem.errors:
        described["errors"] = list(problem.errors)
    return described


def encode(problem: Problem, request_id: str) -> bytes:
    """A problem's body."""
    described: ProblemOut = {**describe(problem), "request_id": request_id}
    return orjson.dumps(described)


def render(request: Request, problem: Problem) -> Response:
    body = encode(problem, _request_id(request))
    return Response(body, problem.status, problem.headers, media_type="application/problem+json")


def _request_id(request: Request) -> str:
    return str(request.scope.get("posthaste.request_id", ""))


async def _on_known(request: Request, error: Exception) -> Response:
    problem = problem_from(error)
    assert problem is not None
    if isinstance(error, BadData):  # a value that the request model accepts; the answer cannot name its field
        log.warning("request.bad_data", request_id=_request_id(request), reason=str(error))
    return render(request, problem)


async def _on_unknown_outcome(request: Request, error: Exception) -> Response:
    """A read has no outcome that could be unknown."""
    if request.method in ("GET", "HEAD"):
        return render(request, unavailable("The database does not answer."))
    return await _on_known(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, as problems. Its 405 names only the methods of the first matching route."""
    if not isinstance(error, HTTPException) or error.status_code != 405:
        return render(request, not_found())
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    paths = {route.path for route in routes if route.endpoint is request.scope.get("endpoint")}
    allow = sorted({method for route in routes if route.path in paths for method in route.methods or ()})
    detail = f"This path does not support {request.method}."
    return render(request, Problem(405, "method_not_allowed", detail, headers={"Allow": ", ".join(allow)}))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """The client is gone, so nobody reads this answer."""
    log.debug("request.disconnected", request_id=_request_id(request))
    return render(request, Problem(400, "disconnected", "The client disconnected before the request was complete."))


async def _on_bug(request: Request, error: Exception) -> Response:
    """Any other exception is a defect. The log has all of it, the answer nothing."""
    log.error("request.failed", request_id=_request_id(request), exc_info=error)
    return render(request, Problem(500, "internal_error", "This is a defect of Posthaste. The log has the details."))


# Starlette's table. It chooses the class nearest to an exception.
EXCEPTION_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: _on_known,
    **dict.fromkeys(_PROBLEMS, _on_known),
    DeadlineExceeded: _on_unknown_outcome,
    Transient: _on_unknown_outcome,
    HTTPException: _on_http_exception,
    ClientDisconnect: _on_disconnect,
    Exception: _on_bug,
}


async def answer_to(request: Request, error: Exception) -> Response:
    """The answer to a request whose endpoint raised this error, by the same table."""
    handler = next(EXCEPTION_HANDLERS[base] for base in type(error).__mro__ if base in EXCEPTION_HANDLERS)
    return await handler(request, error)
