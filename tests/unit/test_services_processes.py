"""Processes of ours: recognised, started, ended and watched; with `sleep` and `sh` in the place of services."""

import asyncio
import http.server
import os
import signal
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pamqp.base
import pamqp.commands
import pamqp.frame
import psutil
import pytest

from dev import Instance, ServiceError
from dev.errors import AbandonedError, NotReadyError
from dev.home import Home
from dev.postgres import POSTGRES, remove_stale_lock
from dev.process import Process
from dev.rabbitmq import RABBITMQ, check_amqp, check_management
from dev.redis import REDIS, RedisService
from dev.service import Command, Place

AMQP = pamqp.commands.Connection
# The parameters that a server reports to psycopg2: each is 'S', its length, its name and its value.
PARAMETERS = b"S\0\0\0\x18server_version\x0017.0\0S\0\0\0\x19client_encoding\0UTF8\0S\0\0\0\x17DateStyle\0ISO, MDY\0"


def redis_answers(port: int) -> None:
    REDIS.check({REDIS.variable: f"redis://127.0.0.1:{port}/0?protocol=2"})


def postgres_answers(port: int) -> None:
    POSTGRES.check({POSTGRES.variable: f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable"})


def amqp_answers(port: int) -> None:
    asyncio.run(check_amqp(f"amqp://guest:guest@127.0.0.1:{port}/"))


@pytest.mark.parametrize("name", ["redis-server", "a b", ") R 1 ((", "\N{SNOWMAN}"])
def test_a_process_is_recognised_whatever_the_program_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/bin/sleep")
    with subprocess.Popen([tmp_path / name, "60"]) as child:
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        process = _identified(child.pid)
        assert process.started == int(fields[19])
        assert process.is_alive() and not process.is_frozen()
        assert process in _identified(os.getpid()).family()
        process.send(signal.SIGKILL)


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
        while not any(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process(parent.pid).children()):
            assert process.is_alive()
        process.freeze_family()
        assert process.family() == [process]
        process.kill_family()


def test_a_dead_child_is_reaped_and_not_taken_for_alive(sleeper: Process) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    assert sleeper.wait_end(5)
    assert not psutil.pid_exists(sleeper.pid)


def test_an_instance_starts_once_and_ends(home: Home) -> None:
    reports: list[str] = []
    instance = Instance(Sleeping(_ready, "exec sleep 60"), home, reports.append)
    assert instance.pid is None
    instance.start()
    first = instance.pid
    instance.start()
    assert instance.pid == first is not None
    assert instance.stop()
    assert instance.pid is None
    assert not instance.stop()
    assert [line.split(":")[0].split(" after")[0] for line in reports[1:3]] == ["ready", "runs already"]


def test_an_instance_that_ends_while_starting_shows_the_end_of_its_log(home: Home) -> None:
    instance = Instance(Sleeping(_not_ready, "echo the disk is full; exit 1"), home)
    with pytest.raises(ServiceError, match=r"(?s)ended while it was starting.*the disk is full"):
        instance.start()


def test_another_server_at_the_port_of_an_ended_instance_is_not_mistaken_for_it() -> None:
    with pytest.raises(ServiceError, match="ended while it was starting"):
        Sleeping(_ready, "").wait_until_ready({}, ended=lambda: True, interrupted=threading.Event())


def test_an_instance_that_never_gets_ready_says_why(home: Home) -> None:
    instance = Instance(Sleeping(_not_ready, "exec sleep 60", timeout_seconds=0.2), home)
    with pytest.raises(ServiceError, match="not ready within 0 s: still loading"):
        instance.start()
    assert instance.stop()


def test_an_interrupted_start_is_taken_up_by_the_next(home: Home) -> None:
    interrupted = threading.Event()
    interrupted.set()
    script = "exec sleep 60"
    with pytest.raises(AbandonedError):
        Instance(Sleeping(_not_ready, script), home).start(interrupted)
    instance = Instance(Sleeping(_ready, script), home)
    pid = instance.pid
    instance.start()
    assert instance.pid == pid is not None
    assert instance.stop()


def test_an_instance_that_was_dying_when_looked_at_is_started_anew(home: Home) -> None:
    instance = Instance(Sleeping(_ready, "exec sleep 60"), home)
    instance.start()
    first = instance.server
    assert first is not None

    def dying() -> None:
        if first.is_alive():
            first.send(signal.SIGKILL)
            raise NotReadyError("dying")

    again = Instance(Sleeping(dying, "exec sleep 60"), home)
    again.start()
    assert again.pid not in (None, first.pid)
    assert again.stop()


def test_frozen_thawed_killed(home: Home) -> None:
    instance = Instance(Sleeping(_ready, "exec sleep 60"), home)
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


def test_a_lock_file_without_a_pid_is_left_to_postgres(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    lock = tmp_path / "postmaster.pid"
    lock.write_text(f"{ended.pid}\n{tmp_path}\n")
    remove_stale_lock(tmp_path)
    assert lock.exists()


def test_only_the_data_of_a_node_that_never_booted_is_made_anew(tmp_path: Path) -> None:
    place = Place(tmp_path, None, dict.fromkeys(RABBITMQ.ports, 1), "key", "")
    data = tmp_path / "mnesia"

    assert RABBITMQ.prepare(place) is None
    data.mkdir()
    assert RABBITMQ.prepare(place) == "its data is made anew: its first boot was interrupted (Postgres stores every job)"
    assert not data.exists()
    data.mkdir()
    RABBITMQ.finish(place)
    assert RABBITMQ.prepare(place) is None
    assert data.exists()


def _frames(*methods: pamqp.base.Frame) -> list[bytes]:
    return [pamqp.frame.marshal(method, 0) for method in methods]


@pytest.mark.parametrize(
    ("probe", "answers", "complaint"),
    [
        (redis_answers, [b"+OK\r\n", b"+OK\r\n", b"+PONG\r\n"], None),  # after CLIENT SETINFO, twice
        (redis_answers, [b"-LOADING Redis is loading the dataset in memory\r\n"], "is loading"),
        (redis_answers, [b""], "closed by server"),
        (postgres_answers, [b"R\0\0\0\x08\0\0\0\0" + PARAMETERS + b"Z\0\0\0\5I"], None),
        (
            postgres_answers,
            [b"E\0\0\0\x30SFATAL\0C57P03\0Mthe database system is starting up\0\0"],
            "the database system is starting up$",
        ),
        (postgres_answers, [b""], "server closed the connection unexpectedly"),
        (amqp_answers, _frames(AMQP.Start(), AMQP.Tune(10, 131072, 60), AMQP.OpenOk(), AMQP.CloseOk()), None),
        (amqp_answers, [b"AMQP\x00\x00\x09\x01"], "AMQP protocol header"),
        (amqp_answers, _frames(AMQP.Close(320, "CONNECTION_FORCED", 0, 0)), "Expected Connection.Start"),
    ],
)
def test_a_service_is_ready_only_when_it_answers_its_own_protocol(
    probe: Callable[[int], None], answers: list[bytes], complaint: str | None
) -> None:
    with _answering(answers) as port:
        if complaint is None:
            probe(port)
        else:
            with pytest.raises(NotReadyError, match=complaint):
                probe(port)
    with pytest.raises(NotReadyError, match=r"refused|Errno 111"):
        probe(port)


@pytest.mark.parametrize(("password", "complaint"), [("guest", None), ("other", "answered 401")])
def test_management_is_ready_when_it_knows_the_user(password: str, complaint: str | None) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Overview) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        url = f"http://guest:{password}@127.0.0.1:{server.server_address[1]}"
        try:
            if complaint is None:
                asyncio.run(check_management(url))
            else:
                with pytest.raises(NotReadyError, match=complaint):
                    asyncio.run(check_management(url))
        finally:
            server.shutdown()


class Sleeping(RedisService):
    """A service whose server is a shell script."""

    def __init__(self, ready: Callable[[], None], script: str, timeout_seconds: float = 10) -> None:
        self.ready = ready
        self.script = script
        self.timeout_seconds = timeout_seconds

    def check(self, variables: Mapping[str, str]) -> None:
        self.ready()

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


def _ready() -> None:
    """Always."""


def _not_ready() -> None:
    raise NotReadyError("still loading")


def _identified(pid: int) -> Process:
    return Process.of(psutil.Process(pid))


@contextmanager
def _answering(answers: list[bytes]) -> Iterator[int]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for answer in answers:
                self.request.recv(10_000)
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
