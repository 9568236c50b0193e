"""The configuration that `posthaste up` hands to supervisor."""

import json
import os
import socket
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import typer

from cli.local_settings import started
from cli.processes import CannotStart, require_free_port, with_metrics, write_command
from cli.up import _introduction, _masked, programs, up
from dev.ports import free_port
from service.settings import SANDBOX_FILE, Settings
from tests.support.settings import set_settings

PROVIDERS = {"sandbox": {"url": "http://127.0.0.1:9007/message"}}


def _parsed(api: int = 1, consumers: int = 1, sandbox_port: int | None = None) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    with TemporaryDirectory() as folder:
        command = write_command(programs(api=api, consumers=consumers, sandbox_port=sandbox_port), Path(folder), 25)
        parser.read(command[-1])
    return parser


def test_every_process_is_restarted_and_given_time_to_finish() -> None:
    parser = _parsed(api=2, consumers=3, sandbox_port=9007)
    sections = [section for section in parser.sections() if section.startswith("program:")]
    assert sections == [f"program:{name}" for name in ("api", "worker", "caller", "reporter", "relay", "sandbox")]
    for section in sections:
        assert (parser[section]["autorestart"], parser[section]["stopwaitsecs"]) == ("true", "25")
    assert (parser["program:api"]["numprocs"], parser["program:worker"]["numprocs"]) == ("2", "3")


def test_each_worker_and_the_relay_have_a_port_of_their_own_for_metrics(tmp_path: Path) -> None:
    parser = ConfigParser(interpolation=None)
    processes = with_metrics(programs(api=1, consumers=2, sandbox_port=9007), 9010)
    parser.read(write_command(processes, tmp_path, 25)[-1])
    ports = {name.removeprefix("program:"): parser[name]["environment"] for name in parser.sections() if "program:" in name}
    names = ("worker-0", "worker-1", "caller", "reporter", "relay")
    expected = {name: f'POSTHASTE_METRICS_PORT="{port}"' for port, name in enumerate(names, 9010)}
    assert ports == {"api": "", **expected, "sandbox": ""}


def test_api_processes_share_a_folder_of_metrics(tmp_path: Path) -> None:
    parser = ConfigParser(interpolation=None)
    parser.read(write_command(programs(api=2, consumers=1, sandbox_port=None), tmp_path, 25)[-1])
    folder = tmp_path / "metrics-api"
    assert parser["program:api"]["environment"] == f'PROMETHEUS_MULTIPROC_DIR="{folder}"' and folder.is_dir()
    assert parser["program:worker"]["environment"] == ""


def test_without_a_port_for_metrics_nothing_is_changed() -> None:
    processes = programs(api=1, consumers=2, sandbox_port=None)
    assert with_metrics(processes, None) == processes


def test_callbacks_have_a_process_of_their_own() -> None:
    listed = programs(api=1, consumers=3, sandbox_port=None)
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
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(CannotStart, match=f"{port}.*POSTHASTE_PORT"):
            require_free_port(port, "POSTHASTE_PORT")


@pytest.mark.parametrize("supervised", [False, True])
def test_a_port_that_is_taken_is_named_with_its_process(tmp_path: Path, supervised: bool) -> None:
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    command = [sys.executable, "-c", listen]
    if supervised:
        supervisor = tmp_path / "posthaste"
        supervisor.write_text("import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[2]])")
        command = [sys.executable, str(supervisor), "up", listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        port = int(process.stdout.readline())
        with pytest.raises(
            CannotStart, match=rf"^port {port} is taken by process {process.pid} \({sys.executable} .*POSTHASTE_PORT"
        ):
            require_free_port(port, "POSTHASTE_PORT")
        process.stdin.close()


def test_a_port_that_is_taken_by_an_unseen_process_is_named_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.net_connections", lambda _kind: [])
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(CannotStart, match=r"is taken by another process; end it"),
    ):
        require_free_port(listener.getsockname()[1], "POSTHASTE_PORT")


def test_a_run_whose_port_is_taken_leaves_the_settings_of_the_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / SANDBOX_FILE
    file.parent.mkdir()
    file.write_text("POSTHASTE_CALLBACK_SECRETS=[]\n")
    record = json.dumps({"pid": os.getppid(), "started": started(os.getppid())})
    (file.parent / f"up-{os.getppid()}.json").write_text(record)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(typer.Exit):
        set_settings(monkeypatch, {"PORT": str(listener.getsockname()[1])})
        up(sandbox=True)
    assert "POSTHASTE_PORT" in capsys.readouterr().err
    assert file.read_text() == "POSTHASTE_CALLBACK_SECRETS=[]\n"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("http://admin:secret@rabbitmq.example:15672", "http://admin:***@rabbitmq.example:15672"),
        ("https://guest:se@cret@h/ui", "https://guest:***@h/ui"),
        ("http://:secret@[::1]:15672", "http://:***@[::1]:15672"),
        ("http://guest:guest@127.0.0.1:15672", "http://guest:guest@127.0.0.1:15672"),
        ("http://127.0.0.1:15672", "http://127.0.0.1:15672"),
    ],
)
def test_no_password_of_the_management_ui_is_printed_but_its_public_default(url: str, masked: str) -> None:
    assert _masked(url) == masked
    settings = Settings(
        database_url="postgresql://h/db", amqp_url="amqp://h/", redis_url="redis://h", management_url=url, providers=PROVIDERS
    )
    printed = _introduction(settings, "http://127.0.0.1:9006", sandbox_port=None)
    assert masked in printed and "secret" not in printed and "cret@" not in printed
