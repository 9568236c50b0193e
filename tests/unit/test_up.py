"""The configuration that `posthaste up` hands to supervisor."""

import os
import socket
import sys
from configparser import ConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cli.processes import CannotStart, write_command
from cli.up import _introduction, _masked, programs, require_free_port
from dev.stack import free_port
from service.settings import Settings


def _parsed(consumers: int = 1, sandbox_port: int | None = None) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    with TemporaryDirectory() as folder:
        command = write_command(programs(consumers=consumers, sandbox_port=sandbox_port), Path(folder), 25)
        parser.read(command[-1])
    return parser


def test_every_process_is_restarted_and_given_time_to_finish() -> None:
    parser = _parsed(consumers=3, sandbox_port=9007)
    sections = [section for section in parser.sections() if section.startswith("program:")]
    assert sections == [f"program:{name}" for name in ("api", "worker", "caller", "reporter", "relay", "sandbox")]
    for section in sections:
        assert (parser[section]["autorestart"], parser[section]["stopwaitsecs"]) == ("true", "25")
    assert parser["program:worker"]["numprocs"] == "3"


def test_callbacks_have_a_process_of_their_own() -> None:
    listed = programs(consumers=3, sandbox_port=None)
    roles = [program.command.split()[1:] for program in listed if program.command.startswith("consumers")]
    assert sorted(roles) == [["callbacks"], ["messages"], ["relay"], ["reports"]]


def test_a_path_with_a_space_or_a_percent_sign_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/home/me/my project 100%/python")
    assert _parsed()["program:api"]["command"] == "'/home/me/my project 100%%/python' -m api"


@pytest.mark.parametrize(("uid", "user"), [(0, "root"), (1000, None)])
def test_only_root_is_named(monkeypatch: pytest.MonkeyPatch, uid: int, user: str | None) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert _parsed()["supervisord"].get("user") == user


def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    require_free_port(free_port(), "POSTHASTE_PORT")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"{port}.*POSTHASTE_PORT"):
            require_free_port(port, "POSTHASTE_PORT")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://admin:secret@rabbitmq.example:15672", "http://admin:***@rabbitmq.example:15672"),
        ("https://guest:se@cret@h/ui", "https://guest:***@h/ui"),
        ("http://:secret@[::1]:15672", "http://:***@[::1]:15672"),
        ("http://guest:guest@127.0.0.1:15672", "http://guest:guest@127.0.0.1:15672"),
        ("http://127.0.0.1:15672", "http://127.0.0.1:15672"),
    ],
)
def test_no_password_of_the_management_ui_is_printed_but_its_public_default(url: str, shown: str) -> None:
    assert _masked(url) == shown
    settings = Settings(database_url="postgresql://h/db", amqp_url="amqp://h/", redis_url="redis://h", management_url=url)
    printed = _introduction(settings, "http://127.0.0.1:9006", sandbox_port=None)
    assert shown in printed and "secret" not in printed and "cret@" not in printed
