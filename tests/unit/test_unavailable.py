"""A 503 says that the outcome is unknown only where a request has one."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.problems import EXCEPTION_HANDLERS
from infra.postgres.errors import TryAgain, Unavailable
from service.batching import DeadlineExceeded
from tests.support.asgi import call


@pytest.mark.parametrize("error", [Unavailable("down"), TryAgain("deadlock"), DeadlineExceeded("late")])
@pytest.mark.parametrize(("method", "unknown"), [("GET", False), ("POST", True)])
async def test_only_a_write_has_an_unknown_outcome(error: Exception, method: str, unknown: bool) -> None:
    async def fail(request: Request) -> Response:
        raise error

    app = Starlette(routes=[Route("/", fail, methods=["GET", "POST"])], exception_handlers=EXCEPTION_HANDLERS)
    status, problem = await call(app, "/", method)
    assert (status, problem["code"]) == (503, "unavailable")
    assert ("unknown" in problem["detail"]) == unknown
