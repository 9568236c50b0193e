"""Reports on a real Dask cluster: its workers count, die, and are told apart from a lost scheduler."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from consumers.reports import dask_lanes
from consumers.reports.dask_lanes import DaskLanes
from consumers.reports.lanes import LanesUnavailable
from infra.postgres.posts import Post, Posts
from jobs.model import Progress
from jobs.outcome import Outcome, Verdict
from tests.support.dask import Cluster, cluster_of
from tests.support.ledger import Store
from tests.support.reports import accept, claim, computed, end, expected, reporter_of, rows_of
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def cluster(database: str) -> Iterator[Cluster]:
    with cluster_of(database) as found:
        yield found


async def _opened(lanes: DaskLanes, threads: int) -> None:
    async def count() -> int:
        try:
            return await lanes.open()
        except LanesUnavailable:
            return 0

    await eventually(count, lambda found: found == 2 * threads)


def _fill(store: Store, count: int) -> None:
    Posts(store.database).fill(Post(n % 7, "two words", NOW) for n in range(count))


async def test_the_workers_of_a_cluster_count(store: Store, cluster: Cluster) -> None:
    _fill(store, 20_000)
    lanes = DaskLanes(cluster.address)
    await _opened(lanes, 2)
    id_, progress = await computed(store, lanes)
    assert rows_of(store, id_) == await expected(store.database)
    assert progress.detail is not None and progress.detail["of_partitions"] == 10
    lanes.close()


async def _until_partitions(store: Store, count: int) -> None:
    async def stored() -> int:
        return int(str(store.rows("SELECT count(*) FROM report_partitions")[0][0]))

    await eventually(stored, lambda found: found >= count)


def _make_slow(store: Store) -> None:
    """Each partition takes some seconds: a trigger delays its result."""
    store.rows("CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END'")
    store.rows("CREATE TRIGGER late BEFORE INSERT ON report_partitions FOR EACH ROW EXECUTE FUNCTION late()")


async def test_a_killed_worker_costs_no_stored_partition(store: Store, cluster: Cluster) -> None:
    _fill(store, 60_000)
    _make_slow(store)
    lanes = DaskLanes(cluster.address)
    await _opened(lanes, 2)
    id_ = await accept(store)
    job, progress = await claim(store, id_), Progress()
    call = asyncio.create_task(reporter_of(store, lanes).compute(job, progress))
    await _until_partitions(store, 2)
    cluster.processes[-1].kill()
    assert not call.done()
    outcome = await call
    assert outcome.verdict is Verdict.ACCEPTED
    await end(store, job, outcome)
    assert rows_of(store, id_) == await expected(store.database)
    assert progress.detail is not None and progress.detail["restarts"] == 0
    lanes.close()


async def test_a_lost_scheduler_is_a_reason_and_the_next_attempt_uses_what_is_stored(store: Store, cluster: Cluster) -> None:
    _fill(store, 60_000)
    _make_slow(store)
    lanes = DaskLanes(cluster.address)
    await _opened(lanes, 2)
    id_ = await accept(store)
    job = await claim(store, id_)
    call = asyncio.create_task(reporter_of(store, lanes).compute(job, Progress()))
    await _until_partitions(store, 2)
    cluster.processes[0].kill()
    assert await call == Outcome(Verdict.RETRYABLE, "scheduler_unavailable")
    stored = store.rows("SELECT number FROM report_partitions")
    assert len(stored) >= 2
    cluster.processes[0].wait()
    cluster.start_scheduler()
    for _ in range(2):
        cluster.start_worker()
    await _opened(lanes, 2)
    outcome = await reporter_of(store, lanes).compute(job, Progress())
    assert outcome.verdict is Verdict.ACCEPTED
    await end(store, job, outcome)
    assert rows_of(store, id_) == await expected(store.database)
    lanes.close()


async def test_a_cluster_without_workers_or_without_scheduler_is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_lanes, "CONNECT_SECONDS", 0.5)
    lanes = DaskLanes("tcp://127.0.0.1:9")
    with pytest.raises(LanesUnavailable, match="no contact"):
        await lanes.open()
    monkeypatch.undo()
    with cluster_of(database, workers=0) as cluster:
        lanes = DaskLanes(cluster.address)

        async def reason() -> str:
            try:
                return f"{await lanes.open()} lanes"
            except LanesUnavailable as error:
                return str(error)

        await eventually(reason, lambda text: "has no worker" in text)
        lanes.close()


async def test_workers_without_a_database_are_named(store: Store) -> None:
    _fill(store, 10)
    with cluster_of(None, workers=1) as cluster:
        lanes = DaskLanes(cluster.address)
        await _opened(lanes, 1)
        outcome = await reporter_of(store, lanes).compute(await claim(store, await accept(store)), Progress())
        assert outcome == Outcome(Verdict.RETRYABLE, "worker_not_configured")
        lanes.close()
