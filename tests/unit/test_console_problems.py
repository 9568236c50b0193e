"""The page of a problem names its cause."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from api.callers import Keyring
from api.console.assets import load_assets
from api.console.pages import Pages
from api.problems import Problem, problem_from
from infra.postgres.errors import Unavailable
from service.backlog import BacklogFull
from service.batching import DeadlineExceeded, Overloaded

_POSTGRES = "Postgres does not answer"


def _page(problem: Problem | None) -> str:
    assert problem is not None
    request = Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]})
    return bytes(Pages(load_assets(), []).problem(request, problem).body).decode()


@pytest.mark.parametrize("error", [Unavailable("down"), DeadlineExceeded("late")])
def test_an_outage_of_postgres_is_named(error: Exception) -> None:
    page = _page(problem_from(error))
    assert f"<h1>{_POSTGRES}</h1>" in page and "Accepting messages" in page


@pytest.mark.parametrize(
    ("problem", "title"),
    [
        (problem_from(BacklogFull("10 jobs wait.")), "Too many jobs wait"),
        (problem_from(Overloaded("10 items")), "Too many requests wait"),
        (Problem(503, "busy", "Too many reports are being computed."), "Service Unavailable"),
        (Problem(404, "not_found", "no"), "Not Found"),
    ],
)
def test_no_other_problem_is_called_an_outage_of_postgres(problem: Problem | None, title: str) -> None:
    page = _page(problem)
    assert f"<h1>{title}</h1>" in page and _POSTGRES not in page and "Accepting messages" not in page


def test_missing_keys_are_named() -> None:
    store: Any = SimpleNamespace(find=None)
    keyring = Keyring(store, lambda: None, off=False, may_be_open=False)
    keyring.required = False  # Postgres has answered that there are none
    with pytest.raises(Problem) as raised:
        keyring.open_caller()
    page = _page(raised.value)
    assert "<h1>There are no keys yet</h1>" in page and "posthaste keys first" in page and _POSTGRES not in page
