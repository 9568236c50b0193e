"""The keeper of a snapshot: what it takes, and when it ends."""

import asyncio
import signal
from dataclasses import replace
from uuid import uuid4

import psycopg2
import pytest

from consumers.reports import keeper as keeper_room
from consumers.reports.keeping import Keepers
from consumers.reports.partition import Partition, Snapshot, SnapshotLost, count_partition
from infra.postgres.errors import PostgresError
from infra.postgres.posts import Busy, Posts
from infra.postgres.report_runs import ReportRuns, Run
from jobs.reports import ReportParameters
from tests.support.ledger import Store
from tests.support.reports import Threads, accept, claim, computed, keepers_of, many_posts, rows_of
from tests.support.services import sql
from tests.support.waiting import until


async def test_another_snapshot_under_the_same_id_is_refused(store: Store) -> None:
    with psycopg2.connect(store.database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_export_snapshot(), CAST(pg_current_snapshot() AS text)")
        ((id_, content),) = cursor.fetchall()
        partition = Partition(0, 0, 10, Snapshot(id_, content), ReportParameters(), store.database)
        assert count_partition(partition).posts == 0
        with pytest.raises(SnapshotLost):
            count_partition(replace(partition, snapshot=Snapshot(id_, "1:1:")))
        with pytest.raises(SnapshotLost):
            count_partition(replace(partition, snapshot=Snapshot("00000003-0000001B-9", content)))
    connection.close()
    with pytest.raises(SnapshotLost):
        count_partition(partition)


async def test_a_truncate_waits_for_the_report_and_its_keeper(store: Store) -> None:
    Posts(store.database).fill(many_posts(10))
    with pytest.raises(Busy):
        keeper = await Keepers(store.database, 600).start(await accept(store))
        await asyncio.to_thread(Posts(store.database).truncate)
    await keeper.end()
    await asyncio.to_thread(Posts(store.database).truncate)


async def test_a_report_that_waited_for_a_truncate_sees_what_came_with_it(store: Store) -> None:
    """A snapshot from before the TRUNCATE would show an empty table: a report that was never true."""
    Posts(store.database).fill(many_posts(10))
    other = psycopg2.connect(store.database)
    with other.cursor() as cursor:
        cursor.execute("TRUNCATE posts")
        cursor.execute("INSERT INTO posts (user_id, context, created_at) VALUES (2, 'two new', now())")
    computing = asyncio.create_task(computed(store, Threads(store.database)))
    waiting = "SELECT 1 FROM pg_locks WHERE relation = 'posts'::regclass AND NOT granted"
    await until(lambda: store.rows(waiting), bool)
    other.commit()
    other.close()
    id_, _ = await computing
    assert rows_of(store, id_) == [(2, 2)]
    assert store.rows("SELECT posts_version FROM report_results") == [(None,)]


@pytest.mark.parametrize("cause", ["over", "another run", "cap", "abandoned", "purged"])
async def test_a_keeper_ends(store: Store, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = await accept(store)
    job = await claim(store, id_, lease=0.1 if cause == "abandoned" else 60)
    keeper = await Keepers(store.database, 2.0 if cause == "cap" else 600).start(id_)
    runs = ReportRuns(store.pool)
    run = Run(uuid4(), keeper.kept["snapshot"], keeper.snapshot_at, None, [0, 1], 0)
    if cause == "abandoned":
        await keeper.end()
        monkeypatch.setattr(keeper_room, "ABANDONED_SECONDS", 0.3)
        with keeper_room._connected(store.database) as cursor:
            snapshot = keeper_room._take(cursor)["snapshot"]
            task = keeper_room.Task(url="", job_id=str(id_), cap_seconds=600)
            await asyncio.to_thread(keeper_room._hold, cursor, task, snapshot)
        return
    await runs.create(job, run, 5)
    if cause != "cap":
        assert keepers_of(store)
    if cause == "over":
        sql(store.database, "UPDATE jobs SET status = 'completed'")
    elif cause == "another run":
        await runs.create(job, replace(run, id=uuid4(), snapshot="1-1-1 1:1:"), 5)
    elif cause == "purged":
        sql(store.database, "DELETE FROM jobs")
    assert await asyncio.to_thread(keeper.process.wait, 30) == 0
    assert keepers_of(store) == []


async def test_a_spare_process_becomes_the_next_keeper(store: Store) -> None:
    """It ends with its consumer, whose end closes its standard input."""
    keepers = Keepers(store.database, 600, spare=True)
    spare = keepers._waiting
    assert spare is not None and keepers_of(store) == []
    keeper = await keepers.start(await accept(store))
    assert keeper.process is spare and keepers._waiting is None
    keepers.prepare()
    spare = keepers._waiting
    keepers.prepare()
    assert spare is not None and keepers._waiting is spare
    assert spare.stdin is not None
    spare.stdin.close()
    assert await asyncio.to_thread(spare.wait, 30) == 0
    keepers.close()
    await keeper.end()


async def test_a_killed_spare_process_costs_nothing(store: Store) -> None:
    keepers = Keepers(store.database, 600, spare=True)
    spare = keepers._waiting
    assert spare is not None
    spare.kill()
    spare.wait()
    keeper = await keepers.start(await accept(store))
    assert keeper.process is not spare
    await keeper.end()


def test_a_closed_spare_process_has_ended(database: str) -> None:
    keepers = Keepers(database, 600, spare=True)
    spare = keepers._waiting
    assert spare is not None
    keepers.close()
    assert spare.returncode == -signal.SIGKILL


async def test_a_keeper_without_posts_names_why(store: Store) -> None:
    sql(store.database, "ALTER TABLE posts RENAME TO elsewhere")
    with pytest.raises(PostgresError) as error:
        await Keepers(store.database, 600).start(await accept(store))
    assert error.value.sqlstate == "42P01"
