"""One connection serves the partitions of a lane, without a transaction between them."""

import threading
from collections.abc import Iterator

import psycopg2
import pytest

from consumers.reports import connection as connection_room
from consumers.reports.connection import read_only
from tests.support.services import sql
from tests.support.waiting import until

MINE = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'posthaste report'"


@pytest.fixture(autouse=True)
def no_connection() -> Iterator[None]:
    """The connection of this thread does not outlive a test."""
    yield
    if connection_room._kept.connection is not None:
        connection_room._kept.connection.close()
        connection_room._kept.connection = None


def _pid(url: str) -> int:
    with read_only(url) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((pid,),) = cursor.fetchall()
    return int(pid)


def test_partitions_share_a_connection_that_is_idle_between_them(database: str) -> None:
    assert _pid(database) == _pid(database)
    assert sql(database, f"SELECT state {MINE}") == [("idle",)]


def test_each_transaction_is_new_and_only_reads(database: str) -> None:
    for _ in range(2):
        with read_only(database) as cursor:
            cursor.execute("SELECT pg_current_xact_id_if_assigned(), current_setting('transaction_isolation')")
            assert cursor.fetchall() == [(None, "repeatable read")]
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                cursor.execute("CREATE TABLE written (id int)")
            cursor.execute("ROLLBACK")
            cursor.execute("BEGIN")


async def test_an_error_closes_the_connection(database: str) -> None:
    first = _pid(database)
    with pytest.raises(psycopg2.Error), read_only(database) as cursor:
        cursor.execute("SELECT nonsense")
    with pytest.raises(ZeroDivisionError), read_only(database):
        _ = 1 / 0
    await until(lambda: sql(database, f"SELECT 1 {MINE}"), lambda rows: not rows)
    assert _pid(database) != first


async def test_a_connection_that_rested_long_is_replaced(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _pid(database)
    monkeypatch.setattr(connection_room, "REUSE_SECONDS", 0.0)
    second = _pid(database)
    assert second != first
    await until(lambda: sql(database, f"SELECT pid {MINE}"), lambda rows: rows == [(second,)])


def test_another_database_has_another_connection(database: str) -> None:
    first = _pid(database)
    other = f"{database}?connect_timeout=7"
    assert first != _pid(other) == _pid(other)


def test_the_server_closes_an_unused_connection(database: str) -> None:
    """The timeout is longer than the time in which a lane reuses a connection."""
    with read_only(database) as cursor:
        if cursor.connection.server_version < connection_room._IDLE_TIMEOUT_SINCE:
            pytest.fail("the tests need a Postgres that has idle_session_timeout")
        cursor.execute("SELECT extract(epoch FROM CAST(current_setting('idle_session_timeout') AS interval))")
        ((seconds,),) = cursor.fetchall()
    assert connection_room.REUSE_SECONDS < seconds < 60


def test_each_thread_has_its_own(database: str) -> None:
    pids = [_pid(database)]
    thread = threading.Thread(target=lambda: pids.append(_pid(database)))
    thread.start()
    thread.join()
    assert len(set(pids)) == 2
