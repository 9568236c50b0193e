"""`posthaste send` repeats a request under one key until the API answers; commands find the API of their folder."""

import json
import shlex
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from cli import client as client_module
from cli import send as send_module
from cli.__main__ import app
from cli.client import ApiError, Client, Unavailable, configured_client, find, until_end
from tests.support.settings import clear_settings

ID = UUID("01a1ff6c-bcef-7503-afba-6071d2a10df9")
Answer = tuple[int, dict[str, Any], dict[str, str]] | None

ACCEPTED: Answer = (202, {"id": str(ID)}, {})
DOWN: Answer = (503, {"code": "unavailable", "detail": "Postgres is down."}, {"Retry-After": "3"})
LOST = None  # the connection is closed without an answer


@dataclass
class Api:
    """A server with one answer for each request; the last one is repeated."""

    answers: list[Answer]
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def api() -> Iterator[Api]:
    script = Api([ACCEPTED])

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            script.paths.append(self.path)
            script.keys.append(self.headers["Idempotency-Key"])
            script.bodies.append(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null"))
            answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            if answer is None:
                return
            status, body, headers = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_POST = do_GET = answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        script.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield script
        server.shutdown()
        thread.join()


@dataclass
class Clock:
    """Stands in for the module `time`."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    monkeypatch.chdir(tmp_path)
    clear_settings(monkeypatch)
    clock = Clock()
    monkeypatch.setattr(send_module, "time", clock)
    monkeypatch.setattr(client_module, "time", clock)
    return clock


def _posthaste(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["posthaste", *arguments])
    with pytest.raises(SystemExit) as ended:
        app(list(arguments))
    return int(ended.value.code or 0)


def test_send_repeats_under_one_key_until_the_api_answers(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers = [LOST, DOWN, LOST, ACCEPTED]
    assert _posthaste(monkeypatch, "send", "+1", "hello", "--url", f"http://127.0.0.1:{api.port}") == 0
    output = capsys.readouterr()
    assert output.out == f"{ID}\n"
    assert len(api.keys) == 4 and len(set(api.keys)) == 1 and f"under the key {api.keys[0]}" in output.err
    assert clock.pauses == [0.5, 3.0, 2.0]  # backoff; Retry-After is longer once


def test_send_prints_the_command_that_repeats_safely(
    api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers = [DOWN]
    url = f"http://127.0.0.1:{api.port}"
    assert _posthaste(monkeypatch, "send", "+1", "hello you", "--url", url, "--timeout", "10") == 3
    command = capsys.readouterr().err.splitlines()[-1]
    api.answers = [ACCEPTED]
    assert _posthaste(monkeypatch, *shlex.split(command)[1:]) == 0
    assert len(set(api.keys)) == 1 and api.bodies[0] == api.bodies[-1] == {"destination": "+1", "body": "hello you"}
    assert clock.now <= 10
    api.answers = [DOWN]
    assert _posthaste(monkeypatch, "send", "+1", "b", "--key=k", "--url", url, "--timeout", "0") == 3
    assert capsys.readouterr().err.splitlines()[-1].strip() == f"posthaste send +1 b --key=k --url {url} --timeout 0"
    assert _posthaste(monkeypatch, "send", "--url", url, "--timeout", "0", "--", "+1", "--key") == 3
    assert f"posthaste send --key {api.keys[-1]} --url {url}" in capsys.readouterr().err


def test_an_interrupted_send_prints_the_command_that_repeats_safely(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **fields: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "send", interrupted)
    assert _posthaste(monkeypatch, "send", "+1", "b") == 3
    assert "posthaste send --key " in capsys.readouterr().err


def test_send_takes_every_field_of_a_message(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--priority high --delivery at_most_once --provider sms --reference order-7 --tag a --tag b --key k1"
    options += f" --metadata order=7 --metadata text=x=y --callback-url https://example.com/ --url http://127.0.0.1:{api.port}"
    assert _posthaste(monkeypatch, "send", "+1", "hello", *options.split()) == 0
    assert api.keys == ["k1"]
    assert api.bodies == [
        {
            "destination": "+1",
            "body": "hello",
            "provider": "sms",
            "priority": "high",
            "delivery": "at_most_once",
            "reference": "order-7",
            "tags": ["a", "b"],
            "metadata": {"order": "7", "text": "x=y"},
            "callback_url": "https://example.com/",
        }
    ]


def test_a_rejected_message_is_not_repeated(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [{"pointer": "/tags/0", "code": "too_short", "detail": "must have at least 1 character"}]
    api.answers = [(422, {"code": "validation", "detail": "1 field is invalid.", "errors": errors}, {})]
    assert _posthaste(monkeypatch, "send", "+1", "b", "--tag", "", "--url", f"http://127.0.0.1:{api.port}") == 1
    assert "/tags/0: must have at least 1 character" in capsys.readouterr().err and len(api.paths) == 1


@pytest.mark.parametrize(
    ("options", "code", "name"),
    [
        (["--metadata", "x"], 2, "--metadata"),
        (["--key", "a b"], 2, "--key"),
        (["--priority", "low"], 2, "--priority"),
        (["--url", "nowhere"], 1, "nowhere"),
        (["--url", "http://h:x"], 1, "http://h:x"),
    ],
)
def test_a_wrong_option_is_named(
    options: list[str], code: int, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _posthaste(monkeypatch, "send", "+1", "b", *options) == code
    assert name in capsys.readouterr().err


def test_status_finds_messages_and_reports(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{api.port}"
    missing: Answer = (404, {"code": "not_found", "detail": "There is no such job."}, {})
    api.answers = [missing, (200, {"status": "completed"}, {})]
    assert _posthaste(monkeypatch, "status", str(ID), "--url", url) == 0
    assert api.paths == [f"/messages/{ID}/status", f"/api/2.0/report/jobs/{ID}/status"]
    assert capsys.readouterr().out == "completed\n"
    api.answers = [missing]
    assert _posthaste(monkeypatch, "status", str(ID), "--url", url) == 1
    assert f"there is no message or report {ID}" in capsys.readouterr().err


def test_a_key_without_one_scope_finds_the_other_kind(api: Api) -> None:
    forbidden: Answer = (403, {"code": "forbidden", "detail": "The key lacks the scope reports."}, {})
    api.answers = [forbidden, (200, {"status": "completed"}, {})]
    assert find(Client(f"http://127.0.0.1:{api.port}"), ID)[1] == {"status": "completed"}
    api.answers = [forbidden]
    with pytest.raises(ApiError, match=r"no message or report .* lacks the scope"):
        find(Client(f"http://127.0.0.1:{api.port}"), ID)


def test_waiting_survives_reads_that_fail(clock: Clock) -> None:
    states: list[dict[str, Any] | None] = [{"id": ID, "status": "queued"}, None, None, {"id": ID, "status": "sent"}]

    def read() -> dict[str, Any]:
        if (state := states.pop(0)) is None:
            raise Unavailable("no answer")
        return state

    assert until_end(read, 60)["status"] == "sent"
    states[:] = [None] * 100
    with pytest.raises(Unavailable):
        until_end(read, 1)


def test_commands_find_the_api_and_the_key_in_the_files_of_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local/services.env").write_text("POSTHASTE_PORT=9100\nPOSTHASTE_NO_SUCH=1\n")
    (tmp_path / ".local/sandbox.env").write_text("POSTHASTE_API_KEY=ph_sandbox\nPOSTHASTE_PROVIDERS={\n")
    (tmp_path / ".env").write_text("POSTHASTE_HOST=::1\n")
    found = configured_client(None)
    assert (found._base, found._headers["Authorization"]) == ("http://[::1]:9100", "Bearer ph_sandbox")
    monkeypatch.setenv("POSTHASTE_API_KEY", "ph_mine")
    assert configured_client(None)._headers["Authorization"] == "Bearer ph_mine"
    monkeypatch.setenv("POSTHASTE_PORT", "many")
    assert _posthaste(monkeypatch, "status", str(ID)) == 1
    assert "POSTHASTE_PORT" in capsys.readouterr().err
