"""Reports by partitions of one snapshot: equal to 1.0, resumed, restarted, fenced."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from consumers.reports.lanes import LaneLost
from consumers.reports.partition import Partition, PartitionResult
from infra.monitoring import metrics
from infra.postgres.posts import Post, Posts
from infra.postgres.report_runs import LeaseLost, ReportRuns, Run, StoredPartition
from infra.postgres.retention import Retention
from jobs.model import Progress
from jobs.outcome import RELEASED_AT_SHUTDOWN, Verdict
from jobs.reports import ReportParameters
from tests.support.ledger import Store
from tests.support.reports import (
    KEEPERS,
    MANY,
    NOW,
    TEXTS,
    Threads,
    accept,
    claim,
    computed,
    end,
    expected,
    keepers_of,
    many_posts,
    no_keeper,
    reporter_of,
    rows_of,
)
from tests.support.services import sql
from tests.support.waiting import until


async def test_the_totals_are_those_of_the_request(store: Store) -> None:
    Posts(store.database).fill(many_posts())
    before = metrics.REPORT_ROWS._value.get()
    id_, progress = await computed(store, Threads(store.database))
    assert rows_of(store, id_) == await expected(store.database)
    assert progress.done == MANY and metrics.REPORT_ROWS._value.get() == before + MANY
    (row,) = store.rows("SELECT posts, users, words, parameters, histogram FROM report_results")
    words = sum(total for _, total in rows_of(store, id_))
    assert row == (MANY, 50, words, "{}", None)
    assert store.rows("SELECT 1 FROM report_runs") == []
    await no_keeper(store)


async def test_every_text_is_counted_as_split_does(store: Store) -> None:
    texts = [*TEXTS, *(f"a{chr(code)}b" for code in (*range(1, 256), *range(0x2000, 0x2070), 0x1680, 0x180E, 0x3000, 0xFEFF))]
    Posts(store.database).fill(Post(n, text, NOW) for n, text in enumerate(texts))
    id_, _ = await computed(store, Threads(store.database))
    assert rows_of(store, id_) == [(n, len(text.split())) for n, text in enumerate(texts)]


async def test_an_empty_table_has_an_empty_result(store: Store) -> None:
    lanes = Threads(store.database)
    id_, progress = await computed(store, lanes, ReportParameters(histogram=True))
    assert (rows_of(store, id_), progress.done, lanes.counted) == ([], 0, [])
    assert store.rows("SELECT posts, users, words, histogram FROM report_results") == [(0, 0, 0, [])]


@pytest.mark.parametrize("change", ["ALTER user_id TYPE bigint", "ALTER context DROP NOT NULL"])
async def test_a_changed_table_is_named(store: Store, change: str) -> None:
    Posts(store.database).fill(many_posts(10))
    sql(store.database, f"ALTER TABLE posts {change}")
    if "NULL" in change:
        sql(store.database, "UPDATE posts SET context = NULL WHERE user_id = 3")
    job = await claim(store, await accept(store))
    outcome = await reporter_of(store, Threads(store.database)).compute(job, Progress())
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRYABLE, "posts_changed")


async def test_a_full_disk_is_named_and_what_is_stored_is_used_later(store: Store) -> None:
    Posts(store.database).fill(many_posts())
    sql(store.database, """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON report_partitions FOR EACH ROW WHEN (NEW.number = 2)
            EXECUTE FUNCTION full_disk()""")  # fmt: skip
    lanes = Threads(store.database, lanes=1)
    id_ = await accept(store)
    job = await claim(store, id_)
    outcome = await reporter_of(store, lanes).compute(job, Progress())
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRYABLE, "disk_full")
    await end(store, job, outcome)
    sql(store.database, "DROP TRIGGER full_disk ON report_partitions")
    lanes.counted.clear()
    job = await claim(store, id_)
    assert (await reporter_of(store, lanes).compute(job, Progress())).verdict is Verdict.ACCEPTED
    assert 2 in lanes.counted and not {0, 1} & set(lanes.counted)


async def test_parameters_choose_posts_and_rows(store: Store) -> None:
    Posts(store.database).fill(many_posts())
    chosen = ReportParameters(
        start=NOW + timedelta(seconds=1000), end=NOW + timedelta(seconds=9000), user_ids=(-3, 5, 7), order="words", limit=2,
        histogram=True,
    )  # fmt: skip
    id_, progress = await computed(store, Threads(store.database), chosen)
    posts = [post for post in list(many_posts())[1000:9000] if post.user_id in (-3, 5, 7)]
    words: dict[int, int] = {}
    lengths: dict[int, int] = {}
    for post in posts:
        count = len(post.context.split())
        words[post.user_id] = words.get(post.user_id, 0) + count
        lengths[count] = lengths.get(count, 0) + 1
    assert rows_of(store, id_) == sorted(words.items(), key=lambda row: (-row[1], row[0]))[:2]
    assert store.rows("SELECT position FROM report_totals ORDER BY position") == [(1,), (2,)]
    (row,) = store.rows("SELECT posts, users, words, parameters, histogram FROM report_results")
    pairs = [list(pair) for pair in sorted(lengths.items())]
    assert row == (len(posts), 3, sum(words.values()), chosen.to_json(), pairs)
    assert progress.done == len(posts)


async def test_posts_that_come_and_go_meanwhile_are_not_in_it(store: Store) -> None:
    Posts(store.database).fill(many_posts())
    before = await expected(store.database)

    def change(partition: Partition) -> None:
        sql(store.database, "INSERT INTO posts (user_id, context, created_at) VALUES (5, 'one more', now())")
        sql(store.database, f"DELETE FROM posts WHERE id = {partition.high}")
        sql(store.database, f"UPDATE posts SET context = 'x' WHERE id = {partition.low + 1}")

    id_, _ = await computed(store, Threads(store.database, before=change))
    assert rows_of(store, id_) == before != await expected(store.database)


async def test_a_later_claim_counts_only_what_is_missing(store: Store) -> None:
    Posts(store.database).fill(many_posts(20_000))
    before = await expected(store.database)
    sql(store.database, "CREATE TABLE audit (number int)")
    sql(store.database, "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO audit VALUES (NEW.number); RETURN NEW; END'")  # fmt: skip
    sql(store.database, "CREATE TRIGGER audit AFTER INSERT ON report_partitions FOR EACH ROW EXECUTE FUNCTION audit()")
    id_ = await accept(store)
    job = await claim(store, id_)
    gate = asyncio.Event()

    class OneThenStop(Threads):
        async def count(self, lane: int, partition: Partition) -> PartitionResult:
            if len(self.counted) >= 3:
                gate.set()
                await asyncio.Event().wait()
            return await super().count(lane, partition)

    first = OneThenStop(store.database)
    call = asyncio.create_task(reporter_of(store, first).compute(job, Progress()))
    await gate.wait()
    await until(lambda: store.rows("SELECT number FROM report_partitions"), lambda rows: len(rows) == len(first.counted))
    call.cancel()
    await asyncio.wait({call})
    stored = {int(str(number)) for (number,) in store.rows("SELECT number FROM report_partitions")}
    assert len(stored) >= 3 and keepers_of(store)
    await end(store, job, RELEASED_AT_SHUTDOWN)
    Posts(store.database).fill([Post(1, "after the snapshot", NOW)])
    again, progress = Threads(store.database), Progress()
    second = await claim(store, id_)
    outcome = await reporter_of(store, again).compute(second, progress)
    assert outcome.verdict is Verdict.ACCEPTED
    await end(store, second, outcome)
    assert not stored & set(again.counted)
    assert sorted(stored | set(again.counted)) == list(range(8))
    assert sorted(store.rows("SELECT number FROM audit")) == [(number,) for number in range(8)]
    assert rows_of(store, id_) == before
    assert progress.detail is not None and progress.detail["restarts"] == 0
    await no_keeper(store)


async def test_a_report_whose_keeper_died_begins_again_and_says_so(store: Store) -> None:
    Posts(store.database).fill(many_posts())
    killed: list[object] = []

    def kill_once(partition: Partition) -> None:
        if partition.number == 2 and not killed:
            killed.extend(sql(store.database, f"SELECT pg_terminate_backend(pid, 5000) FROM ({KEEPERS}) k"))
            Posts(store.database).fill([Post(5, "came before the new snapshot", NOW)])

    id_, progress = await computed(store, Threads(store.database, lanes=1, before=kill_once))
    assert rows_of(store, id_) == await expected(store.database)
    assert progress.detail is not None and progress.detail["restarts"] == 1
    assert progress.done == MANY + 1


async def test_a_lost_claim_stores_nothing(store: Store) -> None:
    id_ = await accept(store)
    job, runs = await claim(store, id_), ReportRuns(store.pool)
    run = Run(uuid4(), "1-1-1 1:1:", NOW, None, [0, 1, 2], 0)
    partition = StoredPartition(0, 1, [1], [2])
    for foreign in (replace(job, token=uuid4()), replace(job, version=1), replace(job, id=uuid4())):
        with pytest.raises(LeaseLost):
            await runs.create(foreign, run, 5)
    await runs.create(job, run, 5)
    for foreign in (replace(job, token=uuid4()), replace(job, version=1)):
        with pytest.raises(LeaseLost):
            await runs.store(foreign, run.id, partition, 5)
        await runs.delete(foreign, 5)
    with pytest.raises(LeaseLost):
        await runs.store(job, uuid4(), partition, 5)
    assert await runs.load(id_, 5) == run
    for _ in range(2):
        await runs.store(job, run.id, partition, 5)
    assert [each async for each in runs.stored(run.id, 5)] == [partition]
    await runs.create(job, replace(run, id=uuid4(), restarts=1), 5)
    assert store.rows("SELECT 1 FROM report_partitions") == []


async def test_more_partitions_than_one_read_are_all_read_in_order(store: Store) -> None:
    job, runs = await claim(store, await accept(store)), ReportRuns(store.pool)
    run = Run(uuid4(), "1-1-1 1:1:", NOW, None, list(range(42)), 0)
    await runs.create(job, run, 5)
    for number in reversed(range(41)):
        await runs.store(job, run.id, StoredPartition(number, 1, [1], [2], [2], [1]), 5)
    assert [each.number async for each in runs.stored(run.id, 5)] == list(range(41))


async def test_runs_of_ended_jobs_are_forgotten(store: Store) -> None:
    runs, ids = ReportRuns(store.pool), [await accept(store) for _ in range(2)]
    for id_ in ids:
        await runs.create(await claim(store, id_), Run(uuid4(), "1-1-1 1:1:", NOW, None, [0], 0), 5)
    sql(store.database, f"UPDATE jobs SET status = 'failed' WHERE id = '{ids[0]}'")
    assert await Retention(store.pool).forget_runs(5) == 1
    assert store.rows("SELECT job_id FROM report_runs") == [(str(ids[1]),)]


async def test_a_dead_process_costs_its_partition(store: Store) -> None:
    Posts(store.database).fill(many_posts())

    class Dying(Threads):
        async def count(self, lane: int, partition: Partition) -> PartitionResult:
            if partition.number == 1 and 1 not in died:
                died.append(1)
                raise LaneLost("killed")
            return await super().count(lane, partition)

    died: list[int] = []
    lanes = Dying(store.database)
    id_, _ = await computed(store, lanes)
    assert sorted(lanes.counted) == list(range(5)) and died == [1]
    assert rows_of(store, id_) == await expected(store.database)
