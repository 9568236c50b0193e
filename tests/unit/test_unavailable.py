"""A 503 says that the outcome is unknown only where a request has one, and whether a repeated request is safe."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.callers import Caller
from api.dead_letters import DeadLetterEndpoints
from api.problems import EXCEPTION_HANDLERS
from infra.keys import Scope
from infra.postgres.dead_letters import DeadLetterStore
from infra.postgres.errors import TryAgain, Unavailable
from service.batching import DeadlineExceeded
from service.dead_letters import DeadLetters
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


class DownStore(DeadLetterStore):
    """A ledger that answers nothing."""

    def __init__(self) -> None: ...

    async def page(self, *args: Any, **more: Any) -> list[Any]:
        raise Unavailable("down")


@pytest.mark.parametrize(("body", "unknown"), [(b"{}", True), (b'{"dry_run": true}', False)])
async def test_a_requeue_without_an_answer_says_that_a_repeat_requeues_nothing_twice(body: bytes, unknown: bool) -> None:
    endpoints = DeadLetterEndpoints(DownStore(), DeadLetters(DownStore(), {}), frozenset())

    async def requeue(request: Request) -> Response:
        request.scope["posthaste.caller"] = Caller("shop", frozenset(Scope))
        return await endpoints.requeue(request)

    app = Starlette(routes=[Route("/", requeue, methods=["POST"])], exception_handlers=EXCEPTION_HANDLERS)
    status, problem = await call(app, "/", "POST", {"Content-Type": "application/json"}, body)
    assert (status, problem["code"]) == (503, "unavailable")
    assert ("requeues no letter twice" in problem["detail"]) == unknown
