"""Where the services come from and what is written down about it: the decisions, without a service being started."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import StringIO
from pathlib import Path

import psutil
import pytest
from dotenv import dotenv_values

from dev import __main__ as command
from dev import containers, ports
from dev.__main__ import main
from dev.bringup import Bringup, Endpoint, render
from dev.errors import ServiceError
from dev.home import Home, Record
from dev.instance import SERVICES
from dev.postgres import POSTGRES
from dev.process import Process
from dev.rabbitmq import RABBITMQ
from dev.redis import REDIS
from dev.service import Place
from dev.source import Source, address, explicit_variables, resolve

ENVIRONMENT, DOCKER, PACKAGES = Source.ENVIRONMENT, Source.DOCKER, Source.PACKAGES
URL = "redis://cache.example:6379/0"
OWN = "redis://127.0.0.1:26001/0"


@pytest.mark.parametrize(
    ("explicit", "using", "remembered", "engine", "expected"),
    [
        (None, None, None, True, DOCKER),
        (None, None, None, False, PACKAGES),
        ("", None, None, True, DOCKER),
        (URL, None, None, True, ENVIRONMENT),
        (URL, DOCKER, DOCKER, True, ENVIRONMENT),
        (URL, PACKAGES, PACKAGES, False, ENVIRONMENT),
        (OWN, None, PACKAGES, True, PACKAGES),  # services.env loaded into the shell is no word from outside
        (None, PACKAGES, None, True, PACKAGES),
        (None, PACKAGES, DOCKER, True, PACKAGES),
        (None, DOCKER, PACKAGES, True, DOCKER),
        (None, None, PACKAGES, True, PACKAGES),  # an engine started later does not swap the database
        (None, None, DOCKER, True, DOCKER),
    ],
)
def test_a_service_comes_from_the_environment_else_docker_else_packages(
    explicit: str | None, using: Source | None, remembered: Source | None, engine: bool, expected: Source
) -> None:
    trouble = None if engine else "no engine answers"
    source = resolve(explicit=explicit, own=OWN, using=using, remembered=remembered, docker_trouble=lambda: trouble)
    assert source is expected


@pytest.mark.parametrize(("explicit", "using"), [(URL, None), (URL, DOCKER), (None, PACKAGES)])
def test_docker_is_examined_only_if_needed(explicit: str | None, using: Source | None) -> None:
    def docker_trouble() -> str | None:
        pytest.fail("Docker was examined")

    resolve(explicit=explicit, own=None, using=using, remembered=None, docker_trouble=docker_trouble)


def test_docker_insisted_on_without_an_engine_is_refused_with_the_reason() -> None:
    with pytest.raises(ServiceError, match="no engine answers"):
        resolve(explicit=None, own=None, using=DOCKER, remembered=None, docker_trouble=lambda: "no engine answers")


def test_data_in_docker_volumes_is_not_silently_swapped_for_an_empty_database() -> None:
    with pytest.raises(ServiceError, match="USING=packages"):
        resolve(explicit=None, own=None, using=None, remembered=DOCKER, docker_trouble=lambda: "no engine answers")


def test_each_service_is_resolved_by_itself(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "trouble", lambda: None)
    home.save("rabbitmq", Record(PACKAGES, {"amqp": 1, "management": 2}))
    bringup = Bringup(home, {"POSTHASTE_REDIS_URL": URL}, lambda _service, _line: None)
    assert bringup.sources(None) == {REDIS: ENVIRONMENT, RABBITMQ: PACKAGES, POSTGRES: DOCKER}


def test_services_env_is_plain_pairs_with_a_comment_for_each_service() -> None:
    found = [
        Endpoint("PostgreSQL", "a container, posthaste-1", {"POSTHASTE_DATABASE_URL": "postgresql://u:p=%20@h:1/d?a=b"}),
        Endpoint("RabbitMQ", "given by POSTHASTE_AMQP_URL", {"POSTHASTE_AMQP_URL": "amqp://h/"}),
    ]
    text = render(found)
    assert text.splitlines()[1:] == [
        "# PostgreSQL: a container, posthaste-1",
        "POSTHASTE_DATABASE_URL=postgresql://u:p=%20@h:1/d?a=b",
        "# RabbitMQ: given by POSTHASTE_AMQP_URL",
        "POSTHASTE_AMQP_URL=amqp://h/",
    ]
    assert dotenv_values(stream=StringIO(text)) == {
        "POSTHASTE_DATABASE_URL": "postgresql://u:p=%20@h:1/d?a=b",
        "POSTHASTE_AMQP_URL": "amqp://h/",
    }


def test_services_env_refuses_a_value_that_would_break_a_line() -> None:
    with pytest.raises(ServiceError, match="POSTHASTE_REDIS_URL"):
        render([Endpoint("Redis", "given", {"POSTHASTE_REDIS_URL": "redis://h/0\nPOSTHASTE_PORT=1"})])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@db.example/posthaste", ("db.example", 5432)),
        ("postgresql+psycopg2://db.example:6000/posthaste", ("db.example", 6000)),
        ("postgresql+psycopg2://db.example/posthaste", ("db.example", 5432)),
        ("amqps://u:p@[::1]/", ("::1", 5671)),
        ("redis://h", ("h", 6379)),
        ("postgresql:///posthaste?host=/run/postgresql", None),
    ],
)
def test_the_address_of_a_configured_url(url: str, expected: tuple[str, int] | None) -> None:
    assert address(url) == expected


@pytest.mark.parametrize("url", ["redis://127.0.0.1:notaport/0", "http://127.0.0.1/"])
def test_what_is_no_url_of_a_service_is_refused_by_the_variables_name(url: str) -> None:
    with pytest.raises(ServiceError, match="POSTHASTE_REDIS_URL is not"):
        explicit_variables(REDIS, {"POSTHASTE_REDIS_URL": url})


def test_a_configured_service_is_used_unchanged_once_it_answers(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    environment = {"POSTHASTE_AMQP_URL": f"amqp://127.0.0.1:{port}/x", "POSTHASTE_MANAGEMENT_URL": "http://elsewhere:15672"}
    assert explicit_variables(RABBITMQ, {**environment, "POSTHASTE_REDIS_URL": URL}) == environment


def test_a_configured_service_that_does_not_answer_is_named_with_a_remedy(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(ServiceError, match=f"POSTHASTE_REDIS_URL points to 127.0.0.1:{port}.*unset the variable"):
        explicit_variables(REDIS, {"POSTHASTE_REDIS_URL": f"redis://127.0.0.1:{port}/0"})


@pytest.mark.parametrize(
    ("remembered", "used_ports", "expected"),
    [
        ({}, set(), {"amqp": 100, "management": 101}),
        ({"amqp": 7, "management": 8}, set(), {"amqp": 7, "management": 8}),
        ({"amqp": 7, "management": 8}, {7}, {"amqp": 100, "management": 8}),
        ({"management": 100}, set(), {"amqp": 101, "management": 100}),
        ({"amqp": 7, "other": 101}, {7, 100}, {"amqp": 101, "management": 102}),
    ],
)
def test_ports_are_remembered_and_chosen_anew_when_taken(
    remembered: dict[str, int], used_ports: set[int], expected: dict[str, int]
) -> None:
    candidates = iter(range(100, 110))
    assert ports.settle(["amqp", "management"], remembered, candidates, lambda port: port not in used_ports) == expected


def test_no_free_port_is_an_error_that_names_what_it_was_for() -> None:
    with pytest.raises(ServiceError, match="amqp"):
        ports.settle(["amqp"], {}, iter(range(100, 110)), lambda _port: False)


def test_a_port_is_free_unless_somebody_listens_there(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert not ports.is_free(port)
    listener.close()
    assert ports.is_free(port)


def test_candidates_meet_neither_each_other_nor_standard_ports_nor_outgoing_connections() -> None:
    candidates = [port for service in SERVICES.values() for port in service.candidates]
    assert len(candidates) == len(set(candidates))
    assert not {4369, 5432, 5672, 6379, 15672, 25672} & set(candidates)
    assert max(candidates) < 32768


def test_compose_has_each_service_published_on_loopback_alone() -> None:
    text = containers.FILE.read_text()
    assert containers.images().keys() == SERVICES.keys()
    for service in SERVICES.values():
        for name, port in service.container_ports.items():
            assert re.search(rf'"127\.0\.0\.1:\${{{name.upper()}_PORT:-\d+}}:{port}"', text)
    assert "ports:" not in containers.OVERRIDE.read_text()


def test_compose_gets_ports_and_passwords_by_the_variables_of_its_file(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "compose").write_text('#!/bin/sh\necho "$@"; env')
    (tmp_path / "compose").chmod(0o755)
    monkeypatch.setattr(containers, "compose", lambda: [str(tmp_path / "compose")])
    project = containers.Project(home, lambda _service, _line: None)
    arguments, *lines = project._compose("up", published={"amqp": 1, "postgres": 2}, password="secret").splitlines()
    assert arguments == f"-p {project.name} -f {containers.FILE} -f {containers.OVERRIDE} up"
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    assert (variables["AMQP_PORT"], variables["POSTGRES_PORT"]) == ("1", "2")
    required = set(re.findall(r"\${(\w+):\?", containers.FILE.read_text()))
    assert required <= variables.keys()
    assert variables["POSTGRES_ADMIN_PASSWORD"] == "secret"


def test_rabbitmq_reads_nothing_of_another_rabbitmq() -> None:
    ports_of_ours = {"amqp": 1, "management": 2, "distribution": 3, "epmd": 4}
    commands = RABBITMQ.commands(Place(Path("/ours"), None, ports_of_ours, "key", ""))
    environment = commands["server"].environment
    paths = {name: Path(value) for name, value in environment.items() if value.startswith("/")}
    assert all(path.is_relative_to("/ours") for path in paths.values())
    assert {"RABBITMQ_CONF_ENV_FILE", "RABBITMQ_CONFIG_FILES", "RABBITMQ_ENABLED_PLUGINS_FILE"} <= paths.keys()
    assert environment["RABBITMQ_NODENAME"] == "posthaste-key@localhost"
    assert environment["ERL_EPMD_PORT"] == "4" in commands["epmd"].arguments


def test_what_is_remembered_comes_back(home: Home) -> None:
    record = Record(PACKAGES, {"redis": 26001}, {"server": Process(17, 4711)})
    home.save("redis", record)
    assert Home(home.root, apart=False).load("redis") == record
    assert home.load("postgres") is None


def test_a_copied_root_does_not_take_the_originals_processes_for_its_own(home: Home, tmp_path: Path) -> None:
    home.save("redis", Record(PACKAGES, {"redis": 26001}, {"server": Process(17, 4711)}))
    shutil.copytree(home.root, tmp_path / "copy")
    copy = Home(tmp_path / "copy", apart=False)
    copy.create()
    assert (copy.load("redis"), copy.former) == (None, None)
    assert copy.key != home.key
    assert Home(copy.root, apart=False).key == copy.key


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("recorded", [True, False])  # earlier versions have only the records of the services
def test_a_moved_root_keeps_its_data_key_and_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool, recorded: bool
) -> None:
    monkeypatch.setattr("dev.home.APART", tmp_path / "apart")
    home, record = Home(tmp_path / "root", apart=apart), Record(PACKAGES, {"redis": 26001}, {"server": Process(17, 4711)})
    home.create()
    home.save("redis", record)
    if not recorded:
        (home.data / "home.json").unlink()
    moved = Home(home.root.rename(tmp_path / "moved"), apart=apart)
    assert (moved.former, moved.key, moved.load("redis")) == (str(home.root), home.key, record)
    moved.create()
    again = Home(moved.root, apart=apart)
    assert (again.former, again.key, again.load("redis")) == (None, home.key, record)


def test_a_new_root_in_the_place_of_a_moved_one_gets_data_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.home.APART", tmp_path / "apart")
    home = Home(tmp_path / "root", apart=True)
    home.create()
    moved = Home(home.root.rename(tmp_path / "moved"), apart=True)
    moved.create()
    new = Home(tmp_path / "root", apart=True)
    new.create()
    assert new.data != moved.data
    assert Home(new.root, apart=True).data == new.data
    assert Home(moved.root, apart=True).data == moved.data


def test_a_root_that_was_deleted_finds_its_data_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.home.APART", tmp_path / "apart")
    home = Home(tmp_path / "root", apart=True)
    home.create()
    shutil.rmtree(home.root)
    assert Home(home.root, apart=True).data == home.data


@pytest.mark.parametrize("verb", ["stop", "up"])
def test_processes_of_the_former_path_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setattr("dev.home.APART", tmp_path / "apart")
    monkeypatch.setattr(Bringup, "_run_all", lambda *_: [])
    monkeypatch.setattr(Bringup, "sources", lambda *_: {})
    home = Home(tmp_path / "root")
    home.create()
    with subprocess.Popen(["sleep", "60"]) as child:
        server = Process.of(psutil.Process(child.pid))
        home.save("redis", Record(PACKAGES, {"redis": 26001}, {"server": server}))
        home.root.rename(tmp_path / "moved")
        assert main([verb, "--root", str(tmp_path / "moved")]) == 0
        assert not server.is_alive()
    printed = capsys.readouterr().out
    assert f"this folder was moved from {home.root} to {tmp_path / 'moved'}" in printed
    assert f"stopped (pid {server.pid}, server)" in printed


def test_a_copied_roots_link_is_turned_to_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.home.APART", tmp_path / "apart")
    home = Home(tmp_path / "root", apart=True)
    home.root.mkdir()
    (home.root / "data").symlink_to(tmp_path / "the originals")
    home.create()
    assert (home.root / "data").readlink() == home.data == tmp_path / "apart" / home.key


def test_root_says_whose_services_it_cannot_stop(home: Home) -> None:
    roots = Home(home.root, apart=True)
    with pytest.raises(ServiceError, match=f"run this as {home.root.owner()}"), roots.locked(lambda _line: None):
        pytest.fail("let in")


def test_the_password_is_made_once_and_readable_by_its_owner_only(home: Home) -> None:
    assert not home.has_password()
    password = home.password()
    assert home.has_password()
    assert Home(home.root, apart=False).password() == password
    assert (home.data / "postgres.password").stat().st_mode & 0o777 == 0o600


def test_services_starting_in_parallel_agree_on_the_password(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def slowly(_length: int) -> str:
        with suppress(threading.BrokenBarrierError):
            together.wait(0.2)  # for the other, who must not come this far
        return threading.current_thread().name

    monkeypatch.setattr("secrets.token_hex", slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(home.password), pool.submit(home.password)
        assert first.result() == second.result()


def test_a_second_command_waits_for_the_first_and_says_so(home: Home) -> None:
    reported, order = threading.Event(), []

    def second() -> None:
        with home.locked(lambda _line: reported.set()):
            order.append("second")

    with home.locked(lambda _line: pytest.fail("nobody was there")):
        thread = threading.Thread(target=second)
        thread.start()
        assert reported.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_stop_says_so_when_there_is_nothing_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "--root", str(tmp_path / "root")]) == 0
    assert "nothing to stop" in capsys.readouterr().out


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "root", apart=False)
    home.create()
    return home


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_clean_does_not_call_deleted_what_is_in_docker_volumes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "trouble", lambda: "no engine answers")
    home.save("postgres", Record(DOCKER, {"postgres": 21453}))
    with pytest.raises(ServiceError, match="make clean"):
        command.clean(Bringup(home, {}, lambda service, line: None), None)
    assert home.load("postgres") is not None


def test_a_url_that_cannot_be_read_is_refused_without_a_part_of_its_password() -> None:
    with pytest.raises(ServiceError) as caught:
        explicit_variables(SERVICES["rabbitmq"], {"POSTHASTE_AMQP_URL": "amqp://me:sec/ret@h:5672/"})
    assert "POSTHASTE_AMQP_URL is not a URL" in str(caught.value) and "sec" not in str(caught.value)
