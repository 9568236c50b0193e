"""The terminal output of `posthaste up`: lines that need attention, and the counters."""

import io
import json

import pytest
from rich.console import Console

from cli.up_output import FAILURES_PER_SECOND, Attention, Counters, LiveOutput, PlainOutput, plain

STAMP = "2026-11-29 13:04:01,702"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (f"{STAMP} WARN exited: api (terminated by SIGKILL; not expected)\n", "api exited (SIGKILL), restarted"),
        (f"{STAMP} WARN exited: worker-1 (exit status 3; not expected)\n", "worker-1 exited (status 3), restarted"),
        (f"{STAMP} WARN received SIGTERM indicating exit request\n", ""),
        (f"{STAMP} WARN stopped: api (terminated by SIGTERM)\n", ""),
        ("Traceback (most recent call last):\n", "Traceback (most recent call last):"),
    ],
)
def test_lines_of_supervisord_become_plain_words(line: str, text: str) -> None:
    assert plain(line.encode()) == text


@pytest.mark.parametrize(
    ("event", "needed"),
    [
        ({"action": "jobs.queued", "level": "info"}, False),
        ({"action": "job.sent", "level": "info"}, False),
        ({"action": "job.retrying", "level": "info"}, False),
        ({"action": "job.failed", "level": "info"}, True),
        ({"action": "job.unknown", "level": "info"}, True),
        ({"action": "provider.gate", "level": "info", "state": "closed"}, True),
        ({"action": "postgres.down", "level": "warning"}, True),
        ({"action": "relay.down", "level": "warning"}, False),  # postgres.down or rabbitmq.down says it
        ({"action": "broker.waiting", "level": "warning"}, False),
        ({"action": "lease.lost", "level": "warning"}, True),
        ({"action": "request.failed", "level": "error"}, True),
    ],
)
def test_a_quiet_terminal_shows_what_needs_attention(event: dict[str, str], needed: bool) -> None:
    assert Attention().needs(event) is needed


def test_the_end_of_an_outage_is_shown_after_its_beginning_only() -> None:
    attention = Attention()
    assert not attention.needs({"action": "redis.up", "level": "info"})  # it was waited for at the start
    assert attention.needs({"action": "redis.down", "level": "warning"})
    assert attention.needs({"action": "redis.up", "level": "info"})


def test_a_flood_of_failures_is_counted_instead_of_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.up_output.time.monotonic", lambda: 7.0)
    attention, failed = Attention(), {"action": "job.failed", "level": "info"}
    assert [attention.needs(failed) for _ in range(FAILURES_PER_SECOND + 2)] == [True] * FAILURES_PER_SECOND + [False] * 2
    monkeypatch.setattr("cli.up_output.time.monotonic", lambda: 8.0)
    assert attention.needs(failed)


def test_the_counters_follow_the_jobs_and_the_breakers() -> None:
    counters = Counters()
    for event in (
        {"action": "jobs.queued", "jobs": 1},
        {"action": "jobs.queued", "jobs": 1},
        {"action": "job.queued", "version": 3, "reason": "not_started"},  # released
        {"action": "job.queued", "version": 3, "reason": "no_connection", "retry_in": 1.25},
        {"action": "job.sent"},
        {"action": "job.sent", "queue": "callbacks"},  # of a message that was counted
        {"action": "job.retrying"},
        {"action": "job.failed"},
        {"action": "job.unknown"},
        {"action": "job.completed"},
        {"action": "provider.gate", "provider": "sms", "state": "open"},
        {"action": "provider.gate", "provider": "mail", "state": "closed"},
    ):
        counters.add(event)
    assert (
        str(counters)
        == "accepted 2  sent 1  retries 1  failed 2  deferred 1  reports 1  provider sms does not answer (breaker open)"
    )


def _rendered(*events: dict[str, str], all_lines: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    LiveOutput(console, all_lines=all_lines).run(json.dumps(event).encode() + b"\n" for event in events)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


SENT = {"action": "job.sent", "level": "info", "timestamp": "2026-11-29T13:04:01.7Z", "process": "worker", "id": "01a2"}
LOST = {"action": "lease.lost", "level": "warning", "timestamp": "2026-11-29T13:04:02.7Z", "process": "worker", "id": "01a3"}


def test_a_rendered_line_has_its_time_and_its_process() -> None:
    quiet = _rendered(SENT, LOST, all_lines=False)
    assert "01a2" not in quiet and "13:04:02" in quiet and "worker" in quiet and "lease.lost" in quiet and "sent 1" in quiet
    assert "01a2" in _rendered(SENT, LOST, all_lines=True)


def test_a_pipe_gets_the_lines_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    PlainOutput().run([b"first\n", f"{STAMP} WARN exited: api (terminated by SIGKILL; not expected)\n".encode()])
    assert capsys.readouterr().out == "first\napi exited (SIGKILL), restarted\n"
