"""The frequent operations answer as Starlette's routes do, errors and defects included."""

from typing import Any

import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from api.frequent import FrequentOperations
from api.operations import OperationApplication
from api.problems import EXCEPTION_HANDLERS, not_found
from infra.errors import Transient
from tests.support.asgi import call

ID = "0190163d-8694-739b-aea5-966c26f8ad91"


async def _echo(request: Request) -> Response:
    route, parameters = request.scope["route"].path, {name: str(value) for name, value in request.path_params.items()}
    return JSONResponse({"route": route, "endpoint": request.scope["endpoint"].path, "parameters": parameters})


async def _fail(request: Request) -> Response:
    raise {"problem": not_found("not here"), "transient": Transient("away"), "defect": RuntimeError("secret")}[
        request.headers["x-error"]
    ]


def _applications() -> tuple[ASGIApp, ASGIApp]:
    """The same routes with and without the shortcut."""
    routes = [
        Route("/things", OperationApplication(_echo, "/things"), methods=["POST"]),
        Route("/thing/{id:job}/status", OperationApplication(_echo, "/thing/{id}/status"), methods=["GET"]),
        Route("/failing", OperationApplication(_fail, "/failing"), methods=["GET", "POST"]),
    ]
    plain = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    return FrequentOperations(plain, routes), plain


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/things"),
        ("DELETE", "/things"),
        ("POST", "/things/"),
        ("GET", f"/thing/{ID}/status"),
        ("POST", f"/thing/{ID}/status"),
        ("GET", f"/thing/{ID.upper()}/status"),
        ("GET", f"/thing/{ID}/status/"),
        ("GET", "/thing/x/status"),
        ("GET", f"/other/{ID}/status"),
    ],
)
async def test_answers_are_equal(method: str, path: str) -> None:
    shortcut, plain = _applications()
    answer: tuple[int, Any] = await call(shortcut, path, method)
    assert answer == await call(plain, path, method)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("error", ["problem", "transient"])
async def test_errors_have_equal_answers(method: str, error: str) -> None:
    shortcut, plain = _applications()
    answer = await call(shortcut, "/failing", method, {"x-error": error})
    assert answer == await call(plain, "/failing", method, {"x-error": error}) and answer[0] in (404, 503)


async def test_a_defect_is_a_500_that_tells_nothing_and_a_log_line() -> None:
    shortcut, _ = _applications()
    with structlog.testing.capture_logs() as lines:
        status, answer = await call(shortcut, "/failing", "GET", {"x-error": "defect"})
    assert (status, answer["code"]) == (500, "internal_error") and "secret" not in str(answer)
    assert [line["event"] for line in lines] == ["request.failed"]
