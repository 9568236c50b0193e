"""Processes are killed and connections cut in mid-report: it completes, counts no partition twice, and leaves no process."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from infra.postgres import migration
from infra.postgres.posts import Busy, Post, Posts
from tests.support.own_servers import own_server
from tests.support.services import Services, sql, with_path
from tests.support.stack import Stack, running
from tests.support.waiting import eventually, until

SYNC, SUBMIT, JOBS = "/api/1.0/report/posts", "/api/2.0/report/posts", "/api/2.0/report/jobs"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = json.dumps({"attempts": 10, "base_seconds": 0.05, "cap_seconds": 0.1})
PARTITIONS = 8  # four a lane
STORED_FIRST = 3
# Every stored partition is recorded. All but the first ones wait while a test closes the gate.
AUDIT = f"""
CREATE TABLE audit (run_id uuid, number int);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.number >= {STORED_FIRST} THEN PERFORM pg_advisory_xact_lock_shared(77); END IF;
    INSERT INTO audit VALUES (NEW.run_id, NEW.number);
    RETURN NEW;
END $$;
CREATE TRIGGER audit BEFORE INSERT ON report_partitions FOR EACH ROW EXECUTE FUNCTION audit()
"""


@pytest.fixture
async def reporting(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """A stack with a process for reports that has two lanes, and 40,000 posts."""
    async with _reporting(services, database, broker_namespace, tmp_path) as stack:
        yield stack


@asynccontextmanager
async def _reporting(services: Services, database: str, namespace: str, folder: Path) -> AsyncIterator[Stack]:
    settings: Any = {"report_retry": RETRY, "report_processes": "2", "worker_grace_seconds": "0.5"}
    async with running(services, database, namespace, folder, **settings) as stack:
        Posts(stack.database).fill(Post(n % 50, f"{'word ' * (n % 7)}end", NOW) for n in range(40_000))
        sql(stack.database, AUDIT)
        stack.start("reporter", "consumers", "reports")
        yield stack


@contextmanager
def _closed_gate(stack: Stack) -> Iterator[None]:
    connection = psycopg2.connect(stack.database)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(77)")
    try:
        yield
    finally:
        connection.close()


def _waiting(stack: Stack) -> list[tuple[object, ...]]:
    """The partitions that wait at the gate. Each waits at most ten seconds: a busy machine may start the other lane later."""
    of_here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    return stack.rows(f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted AND {of_here}")


async def _submitted(stack: Stack, **body: Any) -> str:
    async with stack.session.post(stack.base + SUBMIT, json=body) as response:
        answer = await response.json()
        assert response.status == 202, answer
        return str(answer["id"])


async def _in_mid_report(stack: Stack) -> str:
    """Submit a report, and wait until some of its partitions are stored, and one waits at the gate."""
    id_ = await _submitted(stack)
    await until(lambda: _waiting(stack), bool)
    assert stack.rows("SELECT 1 FROM report_partitions")
    return id_


async def _state(stack: Stack, id_: str) -> dict[str, Any]:
    return (await stack.get(f"{JOBS}/{id_}"))[1]


async def _completed(stack: Stack, id_: str) -> dict[str, Any]:
    return await eventually(lambda: _state(stack, id_), lambda state: state["status"] in ("completed", "failed"))


def _children(stack: Stack) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The lanes and the keepers of the process for reports."""
    lanes = [lane for server in _of_reporter(stack, "forkserver") for lane in server.children()]
    return lanes, _of_reporter(stack, "consumers.reports.keeper")


def _of_reporter(stack: Stack, command: str) -> list[psutil.Process]:
    """The children of the process for reports with this in their command line."""
    forked = stack.processes["reporter"].forked
    assert forked is not None
    return [each for each in psutil.Process(forked.pid).children() if command in " ".join(each.cmdline())]


def _are_gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended; a zombie has."""
    return all(map(_is_gone, processes))


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _counted(stack: Stack) -> list[int]:
    """The numbers of the partitions of the last run, as often as each was stored."""
    rows = stack.rows("SELECT number FROM audit WHERE run_id = (SELECT run_id FROM audit ORDER BY ctid DESC LIMIT 1)")
    return sorted(int(str(number)) for (number,) in rows)


@pytest.mark.parametrize("killed", ["lane", "server"])
async def test_a_killed_lane_or_their_server_costs_partitions_in_work(reporting: Stack, killed: str) -> None:
    stack = reporting
    expected = await stack.get(SYNC)
    with _closed_gate(stack):
        id_ = await _in_mid_report(stack)
        lanes, keepers = _children(stack)
        (server,) = _of_reporter(stack, "forkserver")
        assert len(lanes) == 2 and len(keepers) == 1
        (lanes[0] if killed == "lane" else server).kill()
        await until(lambda: _are_gone(lanes[:1] if killed == "lane" else lanes), bool)
    state = await _completed(stack, id_)
    assert (state["status"], state["attempts"], state["progress"]["restarts"]) == ("completed", 1, 0)
    assert await stack.get(f"{JOBS}/{id_}/result") == expected
    assert _counted(stack) == list(range(PARTITIONS))
    assert (_of_reporter(stack, "forkserver") == [server]) == (killed == "lane")
    await until(lambda: _are_gone(keepers), bool)


async def test_a_killed_consumer_is_resumed_without_what_came_meanwhile(reporting: Stack) -> None:
    stack = reporting
    expected = await stack.get(SYNC)
    with _closed_gate(stack):
        id_ = await _in_mid_report(stack)
        lanes, keepers = _children(stack)
        servers = _of_reporter(stack, "forkserver")
        await stack.processes["reporter"].kill()
        await until(lambda: _are_gone([*lanes, *servers]), bool)
        assert len(lanes) == 2 and len(keepers) == 1 and not _are_gone(keepers)
        Posts(stack.database).fill([Post(1, "came meanwhile", NOW)])
        with pytest.raises(Busy):
            await asyncio.to_thread(Posts(stack.database).truncate)
    stack.start("reporter2", "consumers", "reports")
    state = await _completed(stack, id_)
    assert (state["status"], state["attempts"], state["progress"]["restarts"]) == ("completed", 1, 0)
    assert await stack.get(f"{JOBS}/{id_}/result") == expected != await stack.get(SYNC)
    assert _counted(stack) == list(range(PARTITIONS))
    await until(lambda: _are_gone(keepers), bool)
    await asyncio.to_thread(Posts(stack.database).truncate)


async def test_a_killed_keeper_restarts_the_report_on_a_new_snapshot(reporting: Stack) -> None:
    stack = reporting
    with _closed_gate(stack):
        id_ = await _in_mid_report(stack)
        Posts(stack.database).fill([Post(1, "came meanwhile", NOW)])
        _children(stack)[1][0].kill()
        stack.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'posthaste report snapshot'"
                   " AND datname = current_database()")  # fmt: skip
    state = await _completed(stack, id_)
    assert (state["status"], state["attempts"], state["progress"]["restarts"]) == ("completed", 1, 1)
    assert id_ in await stack.processes["reporter"].until_logged("report.restarted")
    assert await stack.get(f"{JOBS}/{id_}/result") == await stack.get(SYNC)
    assert _counted(stack) == list(range(PARTITIONS))


async def test_a_crash_of_postgres_restarts_the_report(
    services: Services, namespace: str, broker_namespace: str, tmp_path: Path
) -> None:
    """A backend that is killed makes Postgres end all sessions, and recover from its log."""
    with own_server("postgres", tmp_path / "postgres") as server:
        sql(server.url, "CREATE DATABASE crashing")
        database = with_path(server.url, "crashing")
        migration.migrate(database, namespace)
        async with _reporting(services, database, broker_namespace, tmp_path) as stack:
            expected = await stack.get(SYNC)
            with _closed_gate(stack):
                id_ = await _in_mid_report(stack)
                keepers = _children(stack)[1]
                with pytest.raises(psycopg2.OperationalError):
                    sql(server.url, "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
            state = await _completed(stack, id_)
            assert (state["status"], state["progress"]["restarts"]) == ("completed", 1)
            assert await stack.get(f"{JOBS}/{id_}/result") == expected
            assert _counted(stack) == list(range(PARTITIONS))
            await until(lambda: _are_gone(keepers), bool)


async def test_cut_connections_cost_an_attempt(reporting: Stack) -> None:
    stack = reporting
    expected = await stack.get(SYNC)
    with _closed_gate(stack):
        id_ = await _in_mid_report(stack)
        await stack.proxies["postgres"].refuse()
        await asyncio.sleep(0.5)  # an outage, not a blink
    await stack.proxies["postgres"].accept()
    state = await _completed(stack, id_)
    assert state["status"] == "completed"
    assert await stack.get(f"{JOBS}/{id_}/result") == expected
    assert _counted(stack) == list(range(PARTITIONS))


async def test_sigterm_frees_the_lanes_and_the_next_process_resumes(reporting: Stack) -> None:
    stack = reporting
    with _closed_gate(stack):
        id_ = await _in_mid_report(stack)
        lanes, keepers = _children(stack)
        servers = _of_reporter(stack, "forkserver")
        stack.processes["reporter"].signal(signal.SIGTERM)
        assert await stack.processes["reporter"].wait(30) == 0
        await until(lambda: _are_gone([*lanes, *servers]), bool)
        assert len(lanes) == 2 and len(keepers) == 1 and not _are_gone(keepers)
    stack.start("reporter2", "consumers", "reports")
    state = await _completed(stack, id_)
    assert (state["status"], state["attempts"], state["progress"]["restarts"]) == ("completed", 1, 0)
    assert _counted(stack) == list(range(PARTITIONS))
    await until(lambda: _are_gone(keepers), bool)


async def test_progress_and_parameters_are_shown(reporting: Stack) -> None:
    stack = reporting
    wanted = {"order": "words", "limit": 3, "user_ids": [1, 2, 3, 4, 5], "from": "2026-01-01T00:00:00Z", "histogram": "words"}
    with _closed_gate(stack):
        id_ = await _submitted(stack, **wanted)
        await until(lambda: _waiting(stack), bool)
        state = await eventually(
            lambda: _state(stack, id_), lambda state: state["progress"] and state["progress"]["partitions"]
        )
        assert state["parameters"] == wanted
        progress = state["progress"]
        assert 0 < progress["partitions"] < progress["of_partitions"] == PARTITIONS
        assert 0 < progress["posts"] < progress["of_about"] and progress["restarts"] == 0
        assert progress["posts_per_second"] > 0 and progress["seconds_left"] > 0
        assert datetime.fromisoformat(progress["snapshot_at"]).tzinfo is not None
    state = await _completed(stack, id_)
    assert state["progress"] | {"posts_per_second": 0} == {
        "posts": 4000, "of_about": 4000, "partitions": PARTITIONS, "of_partitions": PARTITIONS, "posts_per_second": 0,
        "seconds_left": 0.0, "snapshot_at": progress["snapshot_at"], "restarts": 0,
    }  # fmt: skip
    rows = stack.rows("SELECT user_id, total_words FROM report_totals ORDER BY position")
    totals = {row["user_id"]: row["total_words"] for row in (await stack.get(SYNC))[1]["data"]}
    assert rows == sorted(((user, totals[user]) for user in range(1, 6)), key=lambda row: (-row[1], row[0]))[:3]
    assert (await _state(stack, await _submitted(stack)))["parameters"] == {}
