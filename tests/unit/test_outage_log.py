"""The outage log: one line when failures last, one when they end."""

import structlog

from infra.logs import OutageLog


def test_an_outage_is_logged_once_when_it_lasts_and_once_when_it_ends() -> None:
    now = 0.0
    outage = OutageLog("relay", "nothing is published", after_seconds=1.0, monotonic=lambda: now)
    with structlog.testing.capture_logs() as logged:
        for instant in (0.0, 0.5, 1.0, 5.0, 60.0):
            now = instant
            outage.failed(ConnectionError("refused"))
        now = 61.0
        outage.succeeded()
        outage.succeeded()
    shown_lines = [line for line in logged if line["log_level"] != "debug"]
    assert [(line["event"], line["log_level"]) for line in shown_lines] == [("relay.down", "warning"), ("relay.up", "info")]
    assert (shown_lines[0]["reason"], shown_lines[0]["effect"], shown_lines[1]["seconds"]) == (
        "refused",
        "nothing is published",
        61.0,
    )


def test_a_failure_that_does_not_last_is_not_logged() -> None:
    now = 0.0
    outage = OutageLog("relay", "nothing is published", after_seconds=1.0, monotonic=lambda: now)
    with structlog.testing.capture_logs() as logged:
        for instant in (0.0, 2.0, 4.0):
            now = instant
            outage.failed(ConnectionError("refused"))
            outage.succeeded()
    assert [line for line in logged if line["log_level"] != "debug"] == []
