"""Seeding by several processes: what is written, and what a failure leaves."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Event

import psutil
import psycopg2
import pytest

from infra.postgres.errors import Unavailable
from infra.postgres.posts import Busy, Posts
from service.post_recipe import Recipe
from service.seeding import SeedingStopped, seed
from tests.support.services import proxied, sql
from tests.support.waiting import until

ENDLESS = 2_000_000  # a bound, if a test fails; no test waits for it
DISK_FULL = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT count(*) FROM posts) >= 10000 THEN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER disk_full BEFORE INSERT ON posts FOR EACH STATEMENT EXECUTE FUNCTION fail()
"""

BROKEN_INDEX = """
CREATE FUNCTION broken(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT count(*) FROM public.posts) > 0 THEN RAISE 'broken'; END IF;
    RETURN 1;
END $$;
CREATE STATISTICS breaks ON (broken(user_id)), (broken(user_id) + 1) FROM posts
"""
SESSIONS = """
SELECT query, backend_xmin FROM pg_stat_activity WHERE application_name = 'posthaste posts' AND datname = current_database()
"""


@pytest.fixture
def stop() -> Event:
    return Event()


def _recipe(count: int) -> Recipe:
    return Recipe(count, users=50, min_words=0, max_words=20, seed=1, end=time.time_ns() // 1000, skew="zipf")


def _posts(database: str) -> int:
    return Posts(database).stats().posts or 0


def _writers() -> list[psutil.Process]:
    """The writing processes of this process."""
    children = psutil.Process().children()
    return [
        child for child in children if child.status() != psutil.STATUS_ZOMBIE and "service.seeding_process" in child.cmdline()
    ]


@contextmanager
def _blocked(database: str) -> Iterator[psycopg2.extensions.connection]:
    """No process can write meanwhile; reading is possible."""
    other = psycopg2.connect(database)
    with other.cursor() as cursor:
        cursor.execute("LOCK TABLE posts IN EXCLUSIVE MODE")
    yield other
    other.close()


async def _until_waiting(database: str, sessions: int) -> None:
    waiting = "SELECT pid FROM pg_locks WHERE relation = 'posts'::regclass AND NOT granted"
    await until(lambda: len(sql(database, waiting)), lambda count: count == sessions)


@asynccontextmanager
async def _seeding(
    url: str, count: int, processes: int, stop: Event, first: Event | None = None
) -> AsyncIterator["asyncio.Task[int]"]:
    """A seeding in a thread. It ends with the test, however that ends. `first` is set by its first written chunk."""
    written = first or Event()
    task = asyncio.create_task(asyncio.to_thread(seed, url, _recipe(count), processes, lambda posts: written.set(), stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait([task])


async def _stops(seeding: "asyncio.Task[int]") -> str:
    """The text of the error by which a seeding ends."""
    done, _ = await asyncio.wait([seeding], timeout=60)
    assert done, "the seeding still runs"
    with pytest.raises(SeedingStopped) as stopped:
        await seeding
    return str(stopped.value)


def test_every_number_of_processes_writes_the_same_posts(database: str) -> None:
    written: list[object] = []
    for processes, used in ((1, 1), (2, 2), (8, 3)):
        progress: list[int] = []
        assert seed(database, _recipe(12_000), processes, progress.append) == used
        assert sorted(progress) == [2_000, 5_000, 5_000]
        written.append(sql(database, "SELECT md5(string_agg(user_id || context, '' ORDER BY user_id, context)) FROM posts"))
        assert _posts(database) == 12_000
        Posts(database).truncate()
    assert written[0] == written[1] == written[2]


def test_statistics_are_current_afterwards(database: str) -> None:
    seed(database, _recipe(300), 1)
    assert Posts(database).estimate().posts == 300


async def test_a_killed_process_is_named_and_the_posts_of_the_others_stay(database: str, stop: Event) -> None:
    async with _seeding(database, ENDLESS, 2, stop) as seeding:
        with _blocked(database) as blocker:
            await _until_waiting(database, 2)
            victim, other = _writers()
            victim.kill()
            await until(_writers, lambda alive: alive == [other])
            blocker.rollback()
        text = await _stops(seeding)
    assert text == f"process {victim.pid} was killed by SIGKILL; at least 5000 of {ENDLESS} posts were written"
    assert _posts(database) == 5_000
    assert _writers() == []


async def test_a_full_disk_ends_every_process_and_is_named(database: str, stop: Event) -> None:
    sql(database, DISK_FULL)
    async with _seeding(database, ENDLESS, 2, stop) as seeding:
        text = await _stops(seeding)
    written = re.fullmatch(rf"process \d+ no space left; at least (\d+) of {ENDLESS} posts were written", text)
    assert written and int(written[1]) == _posts(database) >= 10_000
    assert _writers() == []


async def test_a_lost_connection_ends_the_seeding(database: str, stop: Event) -> None:
    url, proxy = await proxied(database)
    first = Event()
    async with _seeding(url, ENDLESS, 2, stop, first) as seeding:
        assert await asyncio.to_thread(first.wait, 60)
        await proxy.refuse()
        text = await _stops(seeding)
    (written,) = re.findall(r"at least (\d+) of", text)
    assert 5_000 <= int(written) <= _posts(database)
    await proxy.close()


def test_without_postgres_nothing_starts() -> None:
    with pytest.raises(Unavailable):
        seed("postgresql://127.0.0.1:1/none", _recipe(1), 1)


async def test_stop_ends_after_the_chunks_that_are_being_written(database: str, stop: Event) -> None:
    async with _seeding(database, ENDLESS, 2, stop, first=stop) as seeding:
        text = await _stops(seeding)
    (written,) = re.findall(rf"^interrupted; (\d+) of {ENDLESS} posts were written$", text)
    assert int(written) == _posts(database) > 0


async def test_a_process_that_does_not_answer_is_killed_after_stop(
    database: str, stop: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.seeding._LAST_CHUNKS_SECONDS", 0.2)
    async with _seeding(database, ENDLESS, 1, stop) as seeding:
        with _blocked(database):
            await _until_waiting(database, 1)
            stop.set()
            assert await _stops(seeding) == f"interrupted; at least 0 of {ENDLESS} posts were written"
            assert _writers() == []
    await until(lambda: sql(database, SESSIONS), lambda rows: rows == [])
    assert _posts(database) == 0


async def test_truncate_is_refused_during_a_seeding_which_holds_no_snapshot(database: str, stop: Event) -> None:
    async with _seeding(database, 100, 1, stop) as seeding:
        with _blocked(database) as blocker:
            await _until_waiting(database, 1)
            assert [xmin for query, xmin in sql(database, SESSIONS) if "SHARE MODE" in str(query)] == [None]
            with pytest.raises(Busy):
                await asyncio.to_thread(Posts(database).truncate)
            blocker.rollback()
        assert await seeding == 1
    assert _posts(database) == 100


async def test_a_locked_table_refuses_the_seeding(database: str) -> None:
    other = psycopg2.connect(database)
    other.cursor().execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(Busy):
        await asyncio.to_thread(seed, database, _recipe(1), 1)
    other.close()


async def test_a_failed_analyze_is_named(database: str, stop: Event) -> None:
    sql(database, BROKEN_INDEX)
    async with _seeding(database, 10, 1, stop) as seeding:
        text = await _stops(seeding)
    assert text.startswith("all 10 posts were written, and ANALYZE failed: broken")
