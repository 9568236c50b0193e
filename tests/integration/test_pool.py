"""Postgres calls with a deadline: the effects of an abandoned call, and the meaning of contact."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg2
import pytest
import sqlalchemy as sa

from infra.postgres.errors import BadData, DeadlinePassed, TryAgain, Unavailable
from infra.postgres.pool import Contact, DatabasePool
from infra.postgres.posts import texts
from tests.support.ledger import ProxiedStore, Store
from tests.support.services import with_port
from tests.support.waiting import eventually

COUNT = sa.text("SELECT count(*) FROM jobs")


def _count(connection: sa.Connection) -> int:
    return int(connection.execute(COUNT).scalar_one())


def _one(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT 1").scalar_one())


@contextmanager
def locked(database: str) -> Iterator[None]:
    """The jobs table, locked by another session."""
    connection = psycopg2.connect(database)
    try:
        connection.cursor().execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


@asynccontextmanager
async def pool_of(proxied_store: ProxiedStore, **options: float) -> AsyncIterator[DatabasePool]:
    """A pool through a proxy."""
    pool = DatabasePool(with_port(proxied_store.database, proxied_store.proxy.port), name="pool test", threads=2, **options)  # type: ignore[arg-type]
    yield pool
    pool.close()


def backends(proxied_store: ProxiedStore) -> Callable[[], Awaitable[int]]:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'posthaste pool test' AND state = 'active'"

    async def count() -> int:
        return int(str(proxied_store.rows(statement)[0][0]))

    return count


async def test_no_statement_is_compiled(store: Store) -> None:
    """Without sequential scans the one row of `installation` seems to cost enough for it."""
    plan = await store.pool.fetch(sa.text("EXPLAIN (ANALYZE, TIMING off) SELECT namespace FROM installation"), 10.0)
    assert not [line for row in plan for line in row.values() if "JIT" in line], plan


async def test_an_abandoned_call_ends_at_the_server_while_its_lock_is_still_held(proxied_store: ProxiedStore) -> None:
    async with pool_of(proxied_store) as pool:
        with locked(proxied_store.database):
            for _ in range(4):
                with pytest.raises(DeadlinePassed):
                    await pool.call(_count, 0.2)
            started = time.monotonic()
            await eventually(backends(proxied_store), lambda count: count == 0)
            assert time.monotonic() - started < 9, "the statement timeout ended them, and not the client's hanging up"


async def test_the_server_ends_a_statement_at_the_longest_deadline_of_its_lane(proxied_store: ProxiedStore) -> None:
    async with pool_of(proxied_store, statement_seconds=0.3) as pool:
        with locked(proxied_store.database), pytest.raises(TryAgain):
            await pool.call(_count, 10)


async def test_a_call_that_is_abandoned_after_its_last_statement_costs_no_later_call(proxied_store: ProxiedStore) -> None:
    done, release = threading.Event(), threading.Event()

    def execute_and_wait(connection: sa.Connection) -> int:
        one = _one(connection)
        done.set()
        release.wait(10)
        return one

    async with pool_of(proxied_store) as pool:
        calling = asyncio.create_task(pool.call(execute_and_wait, 30))
        assert await asyncio.to_thread(done.wait, 10)
        calling.cancel()
        await asyncio.wait({calling})
        release.set()
        for _ in range(4):  # more than it has threads
            assert await pool.call(_one, 30) == 1


async def test_abandoning_leaves_a_descriptor_alone_that_libpq_has_closed(proxied_store: ProxiedStore) -> None:
    client, server = socket.socketpair()
    release = threading.Event()

    def close_and_wait(connection: sa.Connection) -> None:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, psycopg2.extensions.connection)
        number = raw.fileno()
        raw.close()
        reused = socket.socket(fileno=_as(client.detach(), number))
        release.wait(10)
        reused.sendall(b"still here")
        reused.close()

    async with pool_of(proxied_store) as pool:
        try:
            with pytest.raises(DeadlinePassed):
                await pool.call(close_and_wait, 0.3)
        finally:
            release.set()
        server.settimeout(5)
        assert await asyncio.to_thread(server.recv, 10) == b"still here"
        server.close()


def _as(descriptor: int, number: int) -> int:
    """Move a file to a descriptor number that the kernel could have chosen."""
    os.dup2(descriptor, number)
    os.close(descriptor)
    return number


async def test_a_call_that_waits_for_a_lock_does_not_break_contact(proxied_store: ProxiedStore) -> None:
    async with pool_of(proxied_store, silence_seconds=0.5) as pool:
        await pool.call(_one, 5)
        started = time.monotonic()
        with locked(proxied_store.database):
            waiting = asyncio.create_task(pool.call(_count, 1.0))
            while not waiting.done():
                await pool.call(_one, 5)
                await asyncio.sleep(0.05)
        assert isinstance(waiting.exception(), DeadlinePassed)
        await pool.call(_one, 5)
        assert pool.contact_seconds() >= time.monotonic() - started - 0.1


async def test_contact_ends_when_postgres_is_silent_for_longer_than_the_limit(proxied_store: ProxiedStore) -> None:
    async with pool_of(proxied_store, silence_seconds=0.5) as pool:
        await pool.call(_one, 5)
        await proxied_store.proxy.freeze()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await pool.call(_one, 0.3)
        assert pool.contact_seconds() == 0
        await proxied_store.proxy.thaw()
        thawed = time.monotonic()
        await eventually(lambda: _answers(pool), bool)
        assert pool.contact_seconds() <= time.monotonic() - thawed


async def _answers(pool: DatabasePool) -> bool:
    try:
        return await pool.call(_one, 1) == 1
    except Unavailable:
        return False


def test_a_short_silence_is_not_a_loss_of_contact_and_a_long_one_is() -> None:
    now = 0.0
    contact = Contact(5.0, monotonic=lambda: now)
    contact.requested()
    contact.answered()
    now = 100.0
    contact.requested()
    now = 104.9
    contact.abandoned()
    assert contact.seconds == 104.9
    now = 105.0
    contact.abandoned()
    assert contact.seconds == 0
    contact.answered()
    now = 106.0
    assert contact.seconds == 1.0


async def test_a_transaction_whose_client_stopped_is_ended_with_its_snapshot(proxied_store: ProxiedStore) -> None:
    release = threading.Event()
    proxied_store.rows("INSERT INTO posts (user_id, context, created_at) SELECT 1, 'a b', now() FROM generate_series(1, 3000)")

    def stop_in_the_middle(connection: sa.Connection) -> int:
        reading = texts(connection)
        next(reading)
        release.wait(20)
        return sum(1 for _ in reading)

    # FETCH: the statements before it, those of the connection included, end transactions or make this one active, too.
    statement = """SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'posthaste pool test' AND xact_start IS NOT NULL AND query LIKE 'FETCH%'"""

    async def transactions() -> int:
        return int(str(proxied_store.rows(statement)[0][0]))

    async with pool_of(proxied_store, idle_transaction_seconds=1) as pool:
        reading = asyncio.create_task(pool.call(stop_in_the_middle, 30))
        await eventually(transactions, lambda count: count == 1)
        await eventually(transactions, lambda count: count == 0)
        release.set()
        with pytest.raises(Unavailable):
            await reading


async def test_every_lane_has_the_server_end_lost_clients(proxied_store: ProxiedStore) -> None:
    names = ("idle_in_transaction_session_timeout", "tcp_keepalives_idle", "tcp_user_timeout")
    async with pool_of(proxied_store) as pool:
        statement = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
        limits = await pool.call(lambda c: tuple(c.exec_driver_sql(statement).one()), 5)
    assert limits == ("1min", "10", "30000")


@pytest.mark.parametrize("sqlstate", ["58030", "XX000", "XX001", "P0001", "0A000"])
async def test_an_error_of_postgres_that_no_rule_names_is_transient(proxied_store: ProxiedStore, sqlstate: str) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{sqlstate}'; END $$"
    async with pool_of(proxied_store) as pool:
        with pytest.raises(Unavailable) as raised:
            await pool.call(lambda c: c.exec_driver_sql(raising).close(), 5)
        assert raised.value.sqlstate == sqlstate
        assert await pool.call(_one, 5) == 1


async def test_a_value_that_postgres_refuses_is_bad_data(proxied_store: ProxiedStore) -> None:
    async with pool_of(proxied_store) as pool:
        with pytest.raises(BadData):
            await pool.call(lambda c: c.exec_driver_sql("SELECT CAST('x' AS int)").close(), 5)


async def test_without_a_thread_a_call_is_unavailable(proxied_store: ProxiedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(work: object) -> None:
        raise RuntimeError("can't start new thread")

    async with pool_of(proxied_store) as pool:
        monkeypatch.setattr(pool._pool, "submit", no_thread)
        with pytest.raises(Unavailable):
            await pool.call(_one, 5)
