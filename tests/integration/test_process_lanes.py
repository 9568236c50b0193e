"""Lanes are processes: they start when needed, stay for the next report, die alone, and end when they are closed."""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from multiprocessing import forkserver

import psycopg2
import pytest

from consumers.reports import lanes as lanes_room
from consumers.reports.lanes import LaneLost, ProcessLanes
from consumers.reports.partition import Partition, Snapshot, SnapshotLost
from infra.postgres.posts import Post, Posts
from jobs.reports import ReportParameters
from tests.support import forked  # noqa: F401  it sets what the server imports
from tests.support.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def snapshot(database: str) -> Iterator[Snapshot]:
    """An exported snapshot of ten posts."""
    Posts(database).fill(Post(n, "two words", NOW) for n in range(10))
    connection = psycopg2.connect(database)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_export_snapshot(), CAST(pg_current_snapshot() AS text)")
        ((id_, content),) = cursor.fetchall()
    yield Snapshot(id_, content)
    connection.close()


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes are forked from the server of the tests' own processes: a process has one."""
    monkeypatch.setattr("consumers.reports.lanes.start_server", forkserver.ensure_running)


@pytest.fixture
def lanes(database: str) -> Iterator[ProcessLanes]:
    lanes = ProcessLanes(2, database)
    yield lanes
    lanes.close()


def _part(snapshot: Snapshot, low: int = 0) -> Partition:
    return Partition(0, low, 100, snapshot, ReportParameters())


def _pids() -> set[int]:
    return {child.pid or 0 for child in multiprocessing.active_children()}


async def test_a_lane_counts_and_stays_for_the_next_report(lanes: ProcessLanes, snapshot: Snapshot) -> None:
    before = _pids()
    assert await lanes.open() == 2
    assert (await lanes.count(0, _part(snapshot))).posts == 10
    (first,) = _pids() - before
    assert (await lanes.count(0, _part(snapshot, 5))).posts == 5
    assert _pids() - before == {first}
    await asyncio.gather(*(lanes.count(lane, _part(snapshot)) for lane in range(2)))
    assert len(_pids() - before) == 2
    lanes.close()
    await until(lambda: _pids() - before, lambda left: not left)
    assert (await lanes.count(1, _part(snapshot))).posts == 10


async def test_the_event_loop_continues_while_a_lane_starts(lanes: ProcessLanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server forks after its imports, which take longer on a busy machine."""
    looped, waits = threading.Event(), []
    process = lanes_room._Process

    def start() -> lanes_room._Process:
        waits.append(looped.wait(10))
        return process()

    monkeypatch.setattr(lanes_room, "_Process", start)
    opening = asyncio.create_task(lanes.open())
    await asyncio.sleep(0)
    looped.set()
    await opening
    assert waits == [True]


@pytest.mark.parametrize("error", [ConnectionRefusedError, BrokenPipeError, EOFError])
async def test_a_server_that_dies_at_a_start_is_replaced(
    lanes: ProcessLanes, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The kernel closes the socket of a killed server before its parent sees the end."""
    process, left = lanes_room._Process, [1, 1]

    def start() -> lanes_room._Process:
        if left:
            left.pop()
            raise error
        return process()

    monkeypatch.setattr(lanes_room, "_Process", start)
    assert (await lanes.count(0, _part(snapshot))).posts == 10
    lanes.close()
    left[:] = [1] * lanes_room.START_TRIES
    with pytest.raises(LaneLost, match="server of the lanes"):
        await lanes.count(0, _part(snapshot))
    assert (await lanes.count(0, _part(snapshot))).posts == 10


async def test_a_killed_lane_is_lost_and_replaced_beside_a_living_one(lanes: ProcessLanes, snapshot: Snapshot) -> None:
    before = _pids()
    await lanes.count(0, _part(snapshot))
    (first,) = _pids() - before
    await lanes.count(1, _part(snapshot))
    (second,) = _pids() - before - {first}
    os.kill(first, signal.SIGKILL)
    with pytest.raises(LaneLost):
        await lanes.count(0, _part(snapshot))
    assert (await lanes.count(1, _part(snapshot))).posts == 10
    assert (await lanes.count(0, _part(snapshot))).posts == 10
    assert second in _pids() and first not in _pids()


async def test_a_cancelled_count_frees_its_process(lanes: ProcessLanes, snapshot: Snapshot, database: str) -> None:
    before = _pids()
    await lanes.count(0, _part(snapshot))
    blocking = psycopg2.connect(database)
    with blocking.cursor() as cursor:
        cursor.execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")
        counting = asyncio.create_task(lanes.count(0, _part(snapshot)))
        waiting = "SELECT 1 FROM pg_locks WHERE relation = 'posts'::regclass AND NOT granted"

        def is_waiting() -> bool:
            cursor.execute(waiting)
            return bool(cursor.fetchall())

        await until(is_waiting, bool)
        counting.cancel()
        await asyncio.wait({counting})
        assert counting.cancelled()
        await until(lambda: _pids() - before, lambda left: not left)
    blocking.close()


async def test_errors_cross_the_process_as_they_are(lanes: ProcessLanes, snapshot: Snapshot) -> None:
    with pytest.raises(SnapshotLost):
        await lanes.count(0, _part(Snapshot("00000003-0000001B-9", snapshot.content)))
    wrong = ProcessLanes(1, "postgresql://127.0.0.1:1/nowhere")
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        await wrong.count(0, _part(snapshot))
    wrong.close()


async def test_a_missing_table_has_its_sqlstate(lanes: ProcessLanes, snapshot: Snapshot, database: str) -> None:
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE posts RENAME TO elsewhere")
    with pytest.raises(psycopg2.Error) as error:
        await lanes.count(0, _part(snapshot))
    assert error.value.pgcode == "42P01"
    connection.close()
