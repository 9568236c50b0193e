"""Problems: every error answer is RFC 9457 `application/problem+json` with a stable `code` and the request's id."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.backlog import BacklogFull

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field: a JSON pointer (RFC 6901) to it, a stable code, and a sentence."""

    pointer: str
    code: str
    detail: str


class Problem(Exception):
    """An error to be answered as it is; `headers` go with it (Retry-After, Allow, …)."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


def not_found() -> Problem:
    return Problem(404, "not_found", "There is nothing here, or it is not yours.")


def unavailable(detail: str) -> Problem:
    """The outcome of the request is unknown to the client: it may safely be sent again later."""
    return Problem(503, "unavailable", detail, headers={"Retry-After": "1"})


def describe(problem: Problem) -> dict[str, Any]:
    """A problem's members as RFC 9457 names them."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
    }
    if problem.errors:
        body["errors"] = [asdict(error) for error in problem.errors]
    return body


def render(request: Request, problem: Problem) -> Response:
    body = describe(problem) | {"request_id": request.scope.get("posthaste.request_id")}
    return Response(orjson.dumps(body), problem.status, problem.headers, media_type="application/problem+json")


async def on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return render(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, as problems."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return render(request, not_found())
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    if error.status_code != 405:
        return render(request, Problem(error.status_code, code, error.detail, headers=error.headers))
    allow = {"Allow": ", ".join(sorted(_methods_here(request)))}
    return render(request, Problem(405, code, f"{request.method} is not possible here.", headers=allow))


def _methods_here(request: Request) -> set[str]:
    """Every method of this path; the framework names those of the first of its routes alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    here = {route.path for route in routes if route.endpoint is request.scope.get("endpoint")}
    return {method for route in routes if route.path in here for method in route.methods or ()}


def backlog_full(error: BacklogFull) -> Problem:
    return Problem(503, "backlog_full", f"{error} This request accepted nothing.", headers={"Retry-After": "5"})


async def on_backlog_full(request: Request, error: Exception) -> Response:
    assert isinstance(error, BacklogFull)
    return render(request, backlog_full(error))


async def on_transient(request: Request, error: Exception) -> Response:
    """A dependency that a request cannot do without is down, slow or busy."""
    return render(request, unavailable("The database does not answer."))


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client hung up in mid-request: nobody will read this."""
    log.debug("request.disconnected", request_id=request.scope.get("posthaste.request_id"))
    return render(request, Problem(400, "disconnected", "The request was not complete when the client hung up."))


async def on_bad_data(request: Request, error: Exception) -> Response:
    """A value that our own checks let through, and Postgres does not: it names no field, but says whose fault it is."""
    log.warning("request.bad_data", request_id=request.scope.get("posthaste.request_id"), reason=str(error))
    return render(request, Problem(422, "validation", "The database refuses a value of this request."))


async def on_bug(request: Request, error: Exception) -> Response:
    """Whatever else was raised is a defect of ours: logged whole, answered without a word of it."""
    log.error("request.failed", request_id=request.scope.get("posthaste.request_id"), exc_info=error)
    return render(request, Problem(500, "internal_error", "This is a defect of Posthaste; it has been logged."))
