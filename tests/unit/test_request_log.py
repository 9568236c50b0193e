"""The request log: by default failed and slow requests, a bounded number in a second."""

from typing import Any

import pytest
from starlette.types import Scope
from structlog.testing import capture_logs

from api.request_log import MOST_LINES, RequestLog

SCOPE: Scope = {"method": "GET", "headers": [], "posthaste.request_id": "r1"}
WAITING: Scope = {**SCOPE, "headers": [(b"prefer", b"wait=20")]}


def _lines(log: RequestLog, *requests: tuple[Scope, int, float]) -> list[Any]:
    with capture_logs() as lines:
        for request in requests:
            log.answered(*request)
    return lines


@pytest.mark.parametrize(
    "request_, everything, level",
    [
        ((SCOPE, 202, 0.01), False, None),
        ((SCOPE, 404, 0.01), False, None),
        ((SCOPE, 202, 0.01), True, "debug"),
        ((SCOPE, 200, 1.0), False, "info"),
        ((WAITING, 200, 20.0), False, None),
        ((SCOPE, 503, 0.01), False, "warning"),
        ((WAITING, 500, 20.0), False, "warning"),
    ],
)
def test_the_level_of_a_request(request_: tuple[Scope, int, float], everything: bool, level: str | None) -> None:
    lines = _lines(RequestLog(everything=everything), request_)
    assert [line["log_level"] for line in lines] == ([] if level is None else [level])


def test_a_line_has_the_fields_of_the_request() -> None:
    (line,) = _lines(RequestLog(everything=True), (SCOPE, 200, 0.01234))
    assert line == {
        "event": "request.answered", "log_level": "debug", "method": "GET", "route": None, "status": 200, "duration_ms": 12.3,
        "request_id": "r1", "client": None, "skipped": None,
    }  # fmt: skip


def test_an_outage_logs_a_bounded_number_of_requests_in_a_second() -> None:
    now = [7.0]
    log = RequestLog(everything=False, monotonic=lambda: now[0])
    failed = (SCOPE, 503, 0.01)
    assert len(_lines(log, *[failed] * 1000)) == MOST_LINES
    now[0] = 8.0
    assert [line["skipped"] for line in _lines(log, failed, failed)] == [1000 - MOST_LINES, None]
