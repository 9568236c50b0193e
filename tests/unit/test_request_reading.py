"""Reading a request is cheap, whatever the client sends."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from api.models import MessageQuery
from api.problems import Problem
from api.requests import MAX_PARAMETERS, preferred, read_query


def _request(query: bytes = b"", **headers: str) -> Request:
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "query_string": query, "headers": listed})


def _problem(read: Callable[[], Any]) -> Problem:
    with pytest.raises(Problem) as caught:
        read()
    return caught.value


def test_a_query_string_with_too_many_parameters_is_rejected() -> None:
    problem = _problem(lambda: read_query(_request(b"&".join(b"%d" % n for n in range(MAX_PARAMETERS + 1))), MessageQuery))
    assert problem.status == 422
    assert [(error.pointer, error.code) for error in problem.errors] == [("?", "too_many")]
    few = _problem(lambda: read_query(_request(b"&".join(b"%d" % n for n in range(MAX_PARAMETERS))), MessageQuery))
    assert len(few.errors) == MAX_PARAMETERS and {error.code for error in few.errors} == {"unknown_field"}


def test_every_repeated_parameter_is_named() -> None:
    problem = _problem(lambda: read_query(_request(b"limit=1&tag=a&limit=2&status=sent&tag=a"), MessageQuery))
    assert [(error.pointer, error.code) for error in problem.errors] == [("?limit", "repeated"), ("?tag", "repeated")]


def test_an_accept_header_is_read_up_to_a_hundred_media_ranges() -> None:
    offered = {"application/json": "json"}
    assert preferred(_request(accept="image/png," * 99 + "application/json"), offered) == "json"
    assert _problem(lambda: preferred(_request(accept="image/png," * 100 + "application/json"), offered)).status == 406


@pytest.mark.parametrize(
    ("accept", "choice"),
    [
        ("*/*", "json"), ("text/*", "csv"), ("text/csv, application/json", "json"), ("application/json;q=0.5, text/csv", "csv"),
        ("text/csv;q=0, */*", "json"), ("application/json;q=0, */*;q=0.1", "csv"), ("text/csv; header=present", "csv"),
        ("application/json; charset=utf-8", "json"), ("TEXT/CSV", "csv"), ("*/*;q=0.1, text/csv;q=0.2", "csv"),
        ("image/png", None), ("*/*;q=0", None), ("", None), ("application/json;q=0, image/*", None), ("text/csv;q=high", None),
    ],
)  # fmt: skip
def test_the_accept_header_chooses_by_quality_then_by_order(accept: str, choice: str | None) -> None:
    offered = {"application/json": "json", "text/csv": "csv"}
    if choice is None:
        assert _problem(lambda: preferred(_request(accept=accept), offered)).status == 406
    else:
        assert preferred(_request(accept=accept), offered) == choice
