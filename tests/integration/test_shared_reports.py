"""Equal reports share a result while no row of the posts has changed, and in no other case."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import psycopg2
import pytest

from infra.postgres import report_results
from infra.postgres.posts import Post, Posts
from infra.postgres.report_results import ReportResults
from jobs.model import Progress
from jobs.outcome import Verdict
from jobs.reports import ReportParameters
from tests.support.factories import report
from tests.support.ledger import Store
from tests.support.reports import Threads, accept, claim, computed, end, expected, reporter_of, rows_of
from tests.support.services import sql

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INSERT = "INSERT INTO posts (user_id, context, created_at) VALUES (5, 'one more', now())"


def _fill(store: Store, users: int = 10) -> None:
    Posts(store.database).fill(Post(n % users, "two words", NOW) for n in range(100))


async def _counts(store: Store, parameters: ReportParameters | None = None) -> bool:
    """Whether a report is computed, not shared. Its rows are right in both cases."""
    lanes = Threads(store.database)
    id_, progress = await computed(store, lanes, parameters)
    if parameters is None:
        assert rows_of(store, id_) == await expected(store.database)
    assert progress.detail is not None and progress.detail["snapshot_at"].endswith("Z")
    return bool(lanes.counted)


@pytest.mark.parametrize("parameters", [None, ReportParameters(order="words", limit=3, histogram=True)])
async def test_an_equal_report_of_unchanged_posts_shares_the_result(
    store: Store, parameters: ReportParameters | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_results, "COPY_ROWS", 4)
    _fill(store)
    first, _ = await computed(store, Threads(store.database), parameters)
    lanes = Threads(store.database)
    second, progress = await computed(store, lanes, parameters)
    assert (lanes.counted, progress.done, progress.estimate) == ([], 100, 100)
    assert rows_of(store, first) == rows_of(store, second) != []
    columns = "posts, users, words, snapshot_at, parameters, posts_version, histogram, sha256"
    one, other = store.rows(f"SELECT {columns} FROM report_results")
    assert one == other and one[5] is not None
    assert len(set(store.rows("SELECT job_id, claim_token FROM report_results"))) == 2


async def test_other_clients_share_it_too(store: Store) -> None:
    _fill(store)
    await computed(store, Threads(store.database))
    new = replace(report(), client_id="another")
    await store.ledger.accept([new], 5)
    lanes = Threads(store.database)
    job = await claim(store, new.id)
    assert (await reporter_of(store, lanes).compute(job, Progress())).verdict is Verdict.ACCEPTED
    assert lanes.counted == []


def _in_transactions(*statements: str) -> Callable[[str], None]:
    def change(url: str) -> None:
        for statement in statements:
            sql(url, statement)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _in_transactions(INSERT),
        _in_transactions("UPDATE posts SET context = 'x' WHERE id = 1"),
        _in_transactions("DELETE FROM posts WHERE id = 1"),
        _in_transactions("TRUNCATE posts"),
        _in_transactions(INSERT, "DELETE FROM posts WHERE context = 'one more'"),
        _in_transactions("DELETE FROM posts WHERE false"),
        lambda url: Posts(url).fill([Post(1, "x", NOW)]),
    ],
    ids=["insert", "update", "delete", "truncate", "back and forth", "nothing", "copy"],
)
async def test_any_write_since_ends_the_sharing(store: Store, change: Callable[[str], None]) -> None:
    _fill(store)
    assert await _counts(store)
    assert not await _counts(store)
    change(store.database)
    if store.rows("SELECT 1 FROM posts LIMIT 1"):
        assert await _counts(store)
    else:
        id_, _ = await computed(store, Threads(store.database))
        assert rows_of(store, id_) == []


@pytest.mark.parametrize(
    "other",
    [
        ReportParameters(order="words"),
        ReportParameters(limit=3),
        ReportParameters(user_ids=(1, 2)),
        ReportParameters(histogram=True),
        ReportParameters(start=NOW),
        ReportParameters(end=NOW),
    ],
)
async def test_other_parameters_are_counted(store: Store, other: ReportParameters) -> None:
    _fill(store)
    await computed(store, Threads(store.database))
    lanes = Threads(store.database)
    await computed(store, lanes, other)
    assert lanes.counted


@pytest.mark.parametrize("then", ["commit", "rollback"])
async def test_a_result_beside_a_writer_is_not_shared(store: Store, then: str) -> None:
    _fill(store)
    writer = psycopg2.connect(store.database)
    with writer.cursor() as cursor:
        cursor.execute(INSERT)
    assert await _counts(store)
    assert store.rows("SELECT posts_version FROM report_results") == [(None,)]
    assert await _counts(store)
    getattr(writer, then)()
    writer.close()
    assert await _counts(store)
    assert not await _counts(store)


async def test_a_writer_that_has_not_written_yet_is_a_writer(store: Store) -> None:
    """Its lock comes before its first row."""
    _fill(store)
    writer = psycopg2.connect(store.database)
    with writer.cursor() as cursor:
        cursor.execute("LOCK TABLE posts IN ROW EXCLUSIVE MODE")
        assert await _counts(store)
        assert store.rows("SELECT posts_version FROM report_results") == [(None,)]
        cursor.execute(INSERT)
    writer.commit()
    writer.close()
    assert await _counts(store)


async def test_vacuum_and_readers_do_not_end_the_sharing(store: Store) -> None:
    _fill(store)
    assert await _counts(store)
    sql(store.database, "VACUUM ANALYZE posts")
    reader = psycopg2.connect(store.database)
    with reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM posts")
        assert not await _counts(store)
    reader.close()


async def test_the_result_of_an_unfinished_report_is_not_shared(store: Store) -> None:
    _fill(store)
    job = await claim(store, await accept(store))
    assert (await reporter_of(store, Threads(store.database)).compute(job, Progress())).verdict is Verdict.ACCEPTED
    assert await _counts(store)  # the outcome of the first one is not recorded


async def test_a_result_that_is_purged_meanwhile_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_results, "COPY_ROWS", 4)
    _fill(store)
    source, _ = await computed(store, Threads(store.database))
    job, results = await claim(store, await accept(store)), ReportResults(store.pool)
    shared = await results.find_shared("{}", 5)
    assert shared is not None and shared.job_id == source
    fetch, calls = store.pool.fetch, 0

    async def fetch_and_purge(*arguments: object, **parameters: object) -> object:
        nonlocal calls
        calls += 1
        rows = await fetch(*arguments, **parameters)  # type: ignore[arg-type]
        if calls == 2:
            sql(store.database, f"DELETE FROM jobs WHERE id = '{source}'")
        return rows

    monkeypatch.setattr(store.pool, "fetch", fetch_and_purge)
    assert not await results.copy(job, shared, 5)
    assert calls > 3 and store.rows("SELECT 1 FROM report_totals") == store.rows("SELECT 1 FROM report_results") == []


async def test_the_result_of_a_resumed_report_has_the_version_of_its_snapshot(store: Store) -> None:
    """A write between the snapshot and the end is not in the result, so it must not be shared."""
    Posts(store.database).fill(Post(n % 10, "two words", NOW) for n in range(8000))
    before = await expected(store.database)
    id_ = await accept(store)
    wrote: list[object] = []

    def write_once(partition: object) -> None:
        if not wrote:
            wrote.append(sql(store.database, INSERT))

    job = await claim(store, id_)
    outcome = await reporter_of(store, Threads(store.database, before=write_once)).compute(job, Progress())
    await end(store, job, outcome)
    assert rows_of(store, id_) == before
    assert await _counts(store)


async def test_many_reports_at_once_are_right_while_posts_are_written(store: Store) -> None:
    """Writers and reports race: each result equals the posts of an instant between its begin and its end."""
    Posts(store.database).fill(Post(0, "x", NOW) for _ in range(10))
    stop = asyncio.Event()
    written = 10

    async def write() -> None:
        nonlocal written
        while not stop.is_set():
            await asyncio.to_thread(
                sql, store.database, "INSERT INTO posts (user_id, context, created_at) VALUES (0, 'x', now())"
            )
            written += 1

    async def read() -> list[UUID]:
        ids = []
        for _ in range(15):
            least = written
            id_, _ = await computed(store, Threads(store.database))
            assert least <= dict(rows_of(store, id_))[0] <= written + 1
            ids.append(id_)
        return ids

    writing = asyncio.create_task(write())
    await read()
    stop.set()
    await writing
