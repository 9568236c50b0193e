"""The posts table: a reader has one snapshot, and TRUNCATE waits for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import psycopg2
import pytest
import sqlalchemy as sa

from infra.postgres.errors import BadData, DeadlinePassed
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import FETCH_ROWS, Busy, Post, Posts, texts
from jobs.words import total_words
from tests.support.services import proxied, sql
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = [
    *("tab\there", "line\nfeed", "carriage\rreturn", "back\\slash \\n \\. \\N", "no\u00a0break", "ideo\u3000graphic"),
    *("a\x1cb", "😀 x", "", "  "),
]


@pytest.fixture
async def pool(database: str) -> AsyncIterator[DatabasePool]:
    pool = DatabasePool(database, name="test", threads=2, scans=True)
    yield pool
    pool.close()


async def test_every_text_comes_back_as_it_was(database: str, pool: DatabasePool) -> None:
    Posts(database).fill(Post(n, text, NOW) for n, text in enumerate(TEXTS))
    rows = await pool.call(lambda connection: list(texts(connection)), 10)
    assert sorted(rows) == list(enumerate(TEXTS))


async def test_more_rows_than_one_fetch_are_all_counted_once(database: str, pool: DatabasePool) -> None:
    count = FETCH_ROWS * 2 + 1
    Posts(database).fill(Post(n % 3, "two words", NOW) for n in range(count))
    totals = await pool.call(lambda connection: total_words(texts(connection)), 20)
    assert sum(totals.values()) == 2 * count
    stats = Posts(database).stats()
    assert (stats.posts, stats.users) == (count, 3)


async def test_an_empty_table_has_no_totals(database: str, pool: DatabasePool) -> None:
    assert await pool.call(lambda connection: total_words(texts(connection)), 10) == {}
    assert Posts(database).stats().oldest is None


def test_a_bad_text_writes_nothing_at_all(database: str) -> None:
    with pytest.raises(BadData):
        Posts(database).fill([Post(1, "good", NOW), Post(1, "a NUL \0", NOW)])
    assert Posts(database).stats().posts == 0


async def test_posts_that_come_while_a_report_reads_are_not_in_it(database: str, pool: DatabasePool) -> None:
    posts, count = Posts(database), FETCH_ROWS * 2 + 1
    posts.fill(Post(1, "two words", NOW) for _ in range(count))

    def while_others_write(connection: sa.Connection) -> dict[int, int]:
        def rows() -> Iterator[tuple[int, str]]:
            for number, row in enumerate(texts(connection)):
                if number in (0, FETCH_ROWS, 2 * FETCH_ROWS):
                    posts.fill([Post(1, "one more", NOW), Post(2, "another user", NOW)])
                yield row

        return total_words(rows())

    assert await pool.call(while_others_write, 30) == {1: 2 * count}
    assert await pool.call(lambda connection: total_words(texts(connection)), 20) == {1: 2 * count + 6, 2: 6}


async def test_truncate_is_refused_while_a_report_reads(database: str, pool: DatabasePool) -> None:
    posts = Posts(database)
    posts.fill(Post(n, "two words", NOW) for n in range(FETCH_ROWS * 2))
    started, go_on = threading.Event(), threading.Event()

    def slowly(connection: sa.Connection) -> int:
        total = 0
        for number, _ in enumerate(texts(connection), 1):
            total = number
            if number == 1:
                started.set()
                go_on.wait(20)
        return total

    reading = asyncio.create_task(pool.call(slowly, 30))
    assert await asyncio.to_thread(started.wait, 10)
    with pytest.raises(Busy):
        await asyncio.to_thread(posts.truncate)
    go_on.set()
    assert await reading == FETCH_ROWS * 2
    posts.truncate()
    assert posts.stats().posts == 0


async def test_a_frozen_postgres_frees_the_reader_at_its_deadline(database: str) -> None:
    Posts(database).fill([Post(1, "a", NOW)])
    url, proxy = await proxied(database)
    pool = DatabasePool(url, name="test", threads=1, scans=True)
    assert await pool.call(lambda connection: total_words(texts(connection)), 10) == {1: 1}
    await proxy.freeze()
    with pytest.raises(DeadlinePassed):
        await pool.call(lambda connection: total_words(texts(connection)), 0.3)
    await proxy.thaw()
    assert await pool.call(lambda connection: total_words(texts(connection)), 10) == {1: 1}
    pool.close()
    await proxy.close()


async def test_a_report_that_waited_for_a_truncate_sees_what_came_with_it(database: str, pool: DatabasePool) -> None:
    """A snapshot from before the TRUNCATE would show an empty table: a report that was never true."""
    posts = Posts(database)
    posts.fill([Post(1, "old", NOW)])
    other = psycopg2.connect(database)
    with other.cursor() as cursor:
        cursor.execute("TRUNCATE posts")
        cursor.execute("INSERT INTO posts (user_id, context, created_at) VALUES (2, 'two new', now())")
    reading = asyncio.create_task(pool.call(lambda connection: total_words(texts(connection)), 20))

    async def waiting() -> int:
        return len(sql(database, "SELECT 1 FROM pg_locks WHERE relation = 'posts'::regclass AND NOT granted"))

    await eventually(waiting, lambda count: count == 1, 10)
    other.commit()
    other.close()
    assert await reading == {2: 2}
