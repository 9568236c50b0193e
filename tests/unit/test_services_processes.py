"""Processes of ours: recognised, started, ended and watched; with `sleep` and `sh` in the place of services."""

import http.server
import os
import signal
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dev import Instance, ServiceError
from dev.catalogue import REDIS, Ports, Service, wait_until_ready
from dev.errors import AbandonedError, NotReadyError
from dev.home import Home
from dev.postgres import remove_stale_lock
from dev.probes import amqp_answers, management_answers, postgres_answers, redis_answers
from dev.process import Process, all_pids, parse_stat, read_stat
from dev.recipes import Command, Place

STAT = "{pid} ({name}) S 17 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 200"


@pytest.mark.parametrize("name", ["redis-server", "a b", ") R 1 ((", "\N{SNOWMAN}"])
def test_a_stat_line_is_read_whatever_the_program_is_called(name: str) -> None:
    stat = parse_stat(STAT.format(pid=1, name=name))
    assert (stat.state, stat.parent, stat.started) == ("S", 17, 4711)


def test_a_pid_with_another_start_time_is_a_stranger_and_left_alone(sleeper: Process) -> None:
    stranger = Process(sleeper.pid, sleeper.started + 1)
    assert not stranger.is_alive()
    stranger.send(signal.SIGKILL)
    assert not stranger.family()
    assert not sleeper.wait_end(0.1)


def test_a_process_is_ended_orderly(sleeper: Process) -> None:
    assert sleeper.end(signal.SIGTERM, grace=5)
    assert not sleeper.is_alive()


def test_a_frozen_process_is_ended_orderly_too() -> None:
    command = ["sh", "-c", "trap 'exit 0' TERM; echo started; while :; do sleep 0.02; done"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as shell:
        assert shell.stdout and shell.stdout.readline() == b"started\n"
        process = _identified(shell.pid)
        process.send(signal.SIGSTOP)
        assert process.end(signal.SIGTERM, grace=5)


def test_what_does_not_end_is_made_to_with_all_that_descends_from_it() -> None:
    shell = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60 & echo started; wait"], stdout=subprocess.PIPE)
    assert shell.stdout and shell.stdout.readline() == b"started\n"
    process = _identified(shell.pid)
    family = process.family()
    assert len(family) == 2
    assert not process.end(signal.SIGTERM, grace=0.2)
    assert not any(member.is_alive() for member in family)


def test_a_zombie_is_no_member_of_the_family() -> None:
    command = ["sh", "-c", "true & exec sleep 60"]  # sleep never asks after the child that it took over
    with subprocess.Popen(command) as parent:
        process = _identified(parent.pid)
        while not any(s and s.state == "Z" and s.parent == parent.pid for s in map(read_stat, all_pids())):
            assert process.is_alive()
        process.freeze_family()
        assert process.family() == [process]
        process.kill_family()


def test_a_dead_child_is_reaped_and_not_taken_for_alive(sleeper: Process) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    assert sleeper.wait_end(5)
    assert read_stat(sleeper.pid) is None


def test_an_instance_starts_once_and_ends(home: Home) -> None:
    said: list[str] = []
    instance = Instance(Sleeping(_service(_ready), "exec sleep 60"), home, said.append)
    assert instance.pid is None
    instance.start()
    first = instance.pid
    instance.start()
    assert instance.pid == first is not None
    assert instance.stop()
    assert instance.pid is None
    assert not instance.stop()
    assert [line.split(":")[0].split(" after")[0] for line in said[1:3]] == ["ready", "runs already"]


def test_an_instance_that_ends_while_starting_shows_the_end_of_its_log(home: Home) -> None:
    instance = Instance(Sleeping(_service(_not_ready), "echo the disk is full; exit 1"), home)
    with pytest.raises(ServiceError, match=r"(?s)ended while it was starting.*the disk is full"):
        instance.start()


def test_whoever_answers_in_the_place_of_one_that_ended_is_not_taken_for_it() -> None:
    with pytest.raises(ServiceError, match="ended while it was starting"):
        wait_until_ready(_service(_ready), {}, ended=lambda: True, interrupted=threading.Event())


def test_an_instance_that_never_gets_ready_says_why(home: Home) -> None:
    instance = Instance(Sleeping(replace(_service(_not_ready), patience=0.2), "exec sleep 60"), home)
    with pytest.raises(ServiceError, match="not ready within 0 s: still loading"):
        instance.start()
    assert instance.stop()


def test_an_interrupted_start_is_taken_up_by_the_next(home: Home) -> None:
    interrupted = threading.Event()
    interrupted.set()
    script = "exec sleep 60"
    with pytest.raises(AbandonedError):
        Instance(Sleeping(_service(_not_ready), script), home).start(interrupted)
    begun = Instance(Sleeping(_service(_ready), script), home)
    pid = begun.pid
    begun.start()
    assert begun.pid == pid is not None
    assert begun.stop()


def test_an_instance_that_was_dying_when_looked_at_is_started_anew(home: Home) -> None:
    instance = Instance(Sleeping(_service(_ready), "exec sleep 60"), home)
    instance.start()
    first = instance.server
    assert first is not None

    def dying(_ports: Ports) -> None:
        if first.is_alive():
            first.send(signal.SIGKILL)
            raise NotReadyError("dying")

    again = Instance(Sleeping(_service(dying), "exec sleep 60"), home)
    again.start()
    assert again.pid not in (None, first.pid)
    assert again.stop()


def test_frozen_thawed_killed(home: Home) -> None:
    instance = Instance(Sleeping(_service(_ready), "exec sleep 60"), home)
    instance.start()
    server = instance.server
    assert server is not None
    instance.freeze()
    assert server.is_frozen()
    instance.thaw()
    assert not server.is_frozen()
    instance.kill()
    assert instance.pid is None


def test_a_lock_that_names_a_stranger_is_removed_but_not_while_a_backend_lingers(tmp_path: Path) -> None:
    lock = tmp_path / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{tmp_path}\n")
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as backend:
        remove_stale_lock(tmp_path)
        assert lock.exists()
        backend.kill()
    remove_stale_lock(tmp_path)
    assert not lock.exists()


def test_a_lock_that_names_nobody_is_left_to_postgres(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    lock = tmp_path / "postmaster.pid"
    lock.write_text(f"{ended.pid}\n{tmp_path}\n")
    remove_stale_lock(tmp_path)
    assert lock.exists()


@pytest.mark.parametrize(
    ("probe", "answer", "complaint"),
    [
        (redis_answers, b"+PONG\r\n", None),
        (redis_answers, b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
        (redis_answers, b"", "answered with b''"),
        (lambda port: postgres_answers(port, "u", "d"), b"R\0\0\0\x17\0\0\0\nSCRAM-SHA-256\0\0", None),
        (
            lambda port: postgres_answers(port, "u", "d"),
            b"E\0\0\0\x30SFATAL\0C57P03\0Mthe database system is starting up\0\0",
            "^the database system is starting up$",
        ),
        (lambda port: postgres_answers(port, "u", "d"), b"", "answered with b''"),
        (amqp_answers, b"\x01\x00\x00\x00\x00\x01\xf0\x00\x0a\x00\x0a\x00\x09", None),
        (amqp_answers, b"AMQP\x00\x00\x09\x01", "AMQP header"),
        (amqp_answers, b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x32", "AMQP header"),  # Connection.Close
    ],
)
def test_a_service_is_ready_only_when_it_answers_its_own_protocol(
    probe: Callable[[int], None], answer: bytes, complaint: str | None
) -> None:
    with _answering(answer) as port:
        if complaint is None:
            probe(port)
        else:
            with pytest.raises(NotReadyError, match=complaint):
                probe(port)
    with pytest.raises(NotReadyError, match="refused"):
        probe(port)


@pytest.mark.parametrize(("password", "complaint"), [("guest", None), ("other", "answered 401")])
def test_management_is_ready_when_it_knows_the_user(password: str, complaint: str | None) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Overview) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        port = server.server_address[1]
        try:
            if complaint is None:
                management_answers(port, "guest", password)
            else:
                with pytest.raises(NotReadyError, match=complaint):
                    management_answers(port, "guest", password)
        finally:
            server.shutdown()


@dataclass
class Sleeping:
    """A recipe whose server is a shell script."""

    service: Service
    script: str
    package = "none"
    user = "nobody"
    ports = ("redis",)
    end = (signal.SIGTERM, 5.0)

    def installed(self) -> bool:
        return True

    def version(self) -> str:
        return "Sleep"

    def prepare(self, place: Place) -> None:
        assert place.folder.is_dir()

    def commands(self, place: Place) -> Mapping[str, Command]:
        return {"server": Command(["sh", "-c", self.script])}


class Overview(http.server.BaseHTTPRequestHandler):
    """/api/overview for guest:guest alone."""

    def do_GET(self) -> None:
        known = self.path == "/api/overview" and self.headers["Authorization"] == "Basic Z3Vlc3Q6Z3Vlc3Q="
        self.send_response(200 if known else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


def _ready(_ports: Ports) -> None:
    """Always."""


def _not_ready(_ports: Ports) -> None:
    raise NotReadyError("still loading")


def _service(check: Callable[[Ports], None]) -> Service:
    return replace(REDIS, check=check, patience=10)


def _identified(pid: int) -> Process:
    stat = read_stat(pid)
    assert stat is not None
    return Process(pid, stat.started)


@contextmanager
def _answering(answer: bytes) -> Iterator[int]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield server.server_address[1]
        thread.join(5)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "root", apart=False)


@pytest.fixture
def sleeper() -> Iterator[Process]:
    child = subprocess.Popen(["sleep", "60"])
    yield _identified(child.pid)
    child.kill()
    child.wait()
