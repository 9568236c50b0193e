"""Live figures in Redis and in the ledger."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from infra.postgres.figures import COUNT_LIMIT, MOST_GROUPS, DeadLetterFigures, LedgerSample, QueueFigures
from infra.redis.connection import CacheDown
from infra.redis.figures import INTERVAL_SECONDS, FiguresStore
from service.figures import FiguresReader, LedgerSampler, publish_samples
from tests.support.ledger import Store
from tests.support.services import Services, proxied
from tests.support.waiting import eventually


@pytest.fixture
async def redis(services: Services, namespace: str) -> AsyncIterator[FiguresStore]:
    store = FiguresStore(services.redis, namespace=namespace)
    yield store
    await store.close()


async def test_counts_of_all_processes_add_up_in_one_interval(redis: FiguresStore) -> None:
    for process, count in (("a", 2), ("b", 3)):
        await redis.report(process, b"{}", {"accepted": count, "time3": 1})
    stored = await redis.read(3)
    present = stored.now_ms // 1000 // INTERVAL_SECONDS * INTERVAL_SECONDS
    assert list(stored.counts) == [present - 20, present - 10, present]
    totals = {name: sum(counts.get(name, 0) for counts in stored.counts.values()) for name in ("accepted", "time3")}
    assert totals == {"accepted": 5, "time3": 2}


async def test_processes_expire_and_leave(redis: FiguresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await redis.report("leaves", b'{"id": 1}', {})
    await redis.report("stays", b'{"id": 2}', {})
    await redis.leave("leaves")
    stored = await redis.read(1)
    assert [state for _, state in stored.states] == [b'{"id": 2}']
    assert stored.now_ms - 5000 < stored.states[0][0] <= stored.now_ms
    monkeypatch.setattr("infra.redis.figures.PROCESS_SECONDS", 0.1)
    await redis.report("stays", b'{"id": 2}', {})

    async def states() -> int:
        return len((await redis.read(1)).states)

    await eventually(states, lambda count: count == 0)
    keys = [key async for key in redis._redis.scan_iter(f"{redis._processes}*")]
    assert keys == [f"{redis._key('leaves')}".encode()]  # it expires by itself


async def test_everything_expires(redis: FiguresStore) -> None:
    await redis.report("a", b"{}", {"sent": 1})
    await redis.write_ledger(b"{}", 10)
    prefix = redis._processes.removesuffix("processes")
    keys = [key async for key in redis._redis.scan_iter(f"{prefix}*")]
    lives = {key.decode().removeprefix(prefix).split(":")[0]: await redis._redis.ttl(key) for key in keys}
    assert set(lives) == {"counts", "processes", "ledger"} and 3600 < lives["counts"] <= 3720
    assert 0 <= lives["processes"] <= 8 and 0 < lives["ledger"] <= 10


async def test_a_lost_redis_is_reported_as_such(services: Services, namespace: str) -> None:
    url, proxy = await proxied(services.redis)
    store = FiguresStore(url, namespace=namespace)
    await proxy.refuse()
    with pytest.raises(CacheDown):
        await store.read(1)
    with pytest.raises(CacheDown):
        await store.report("a", b"{}", {})
    await store.close()
    await proxy.close()


JOBS = """
INSERT INTO jobs (id, kind, provider, priority, status, reason, due_at, lease_until)
SELECT gen_random_uuid(), '{kind}', {provider}, '{priority}', '{status}', {reason}, now() + {due} * interval '1 second', now()
FROM generate_series(1, {count})
"""

OUTBOX = "INSERT INTO outbox (job_id, version, route, queue, due_at) SELECT id, version, 'work', {queue}, due_at FROM jobs"


def _add(
    store: Store,
    count: int,
    kind: str = "message",
    provider: str | None = "sandbox",
    priority: str = "normal",
    status: str = "queued",
    reason: str | None = None,
    due: int = -60,
) -> None:
    named = "NULL" if provider is None else f"'{provider}'"
    why = "NULL" if reason is None else f"'{reason}'"
    parameters = {"kind": kind, "provider": named, "priority": priority, "status": status, "reason": why}
    store.rows(JOBS.format(**parameters, due=due, count=count))


async def test_a_sample_counts_queues_dead_letters_and_the_outbox(store: Store) -> None:
    _add(store, 3)
    _add(store, 2, priority="high", status="retrying")
    _add(store, 1, provider="gone")
    _add(store, 4, provider="later", due=3600)
    _add(store, 5, kind="report", provider=None)
    _add(store, 7, status="processing")
    _add(store, 2, status="failed", reason="http_400")
    _add(store, 1, status="unknown")
    _add(store, 3, kind="callback", provider=None, status="failed", reason="http_410")
    store.rows(OUTBOX.format(queue="priority"))
    store.rows("INSERT INTO provider_pauses (provider) VALUES ('gone')")
    figures = await LedgerSample(store.pool, ["sandbox"]).take(10)
    queues = {queue.name: queue.waiting for queue in figures.queues}
    assert queues == {
        "messages.sandbox.normal": 3,
        "messages.sandbox.high": 2,
        "messages.gone.normal": 1,
        "reports": 5,
        "callbacks": 0,
    }
    oldest = {queue.name: queue.oldest_seconds for queue in figures.queues}
    assert oldest["callbacks"] is None and 60 <= (oldest["reports"] or 0) < 120
    assert sorted(figures.dead_letters, key=str) == [
        DeadLetterFigures("callback", None, "http_410", 3),
        DeadLetterFigures("message", "sandbox", "", 1),
        DeadLetterFigures("message", "sandbox", "http_400", 2),
    ]
    assert (figures.processing, figures.outbox_due, list(figures.paused)) == (7, 24, ["gone"])
    assert figures.outbox_oldest_seconds is not None and 60 <= figures.outbox_oldest_seconds < 120


async def test_an_empty_ledger_has_empty_queues(store: Store) -> None:
    figures = await LedgerSample(store.pool, []).take(10)
    assert figures.queues == [QueueFigures("reports", 0, None), QueueFigures("callbacks", 0, None)]
    assert (figures.dead_letters, figures.processing, figures.outbox_due) == ([], 0, 0)
    assert figures.outbox_oldest_seconds is None


async def test_counts_stop(store: Store) -> None:
    for queue in ("a", "b"):
        _add(store, COUNT_LIMIT + 1, provider=queue)
    _add(store, COUNT_LIMIT + 1, status="failed", reason="http_400")
    store.rows(OUTBOX.format(queue="provider"))
    figures = await LedgerSample(store.pool, []).take(10)
    assert [queue.waiting for queue in figures.queues] == [0, 0, COUNT_LIMIT, COUNT_LIMIT]
    assert [group.count for group in figures.dead_letters] == [COUNT_LIMIT]
    assert figures.outbox_due == COUNT_LIMIT


async def test_many_groups_of_one_kind_hide_no_other_kind(store: Store) -> None:
    _add(store, 2, status="failed", reason="http_400")
    _add(store, 3, kind="report", provider=None, status="failed", reason="report_timeout")
    _add(store, MOST_GROUPS + 1, kind="callback", provider=None, status="failed")
    store.rows("UPDATE jobs SET reason = id WHERE kind = 'callback'")
    figures = await LedgerSample(store.pool, []).take(10)
    assert [group for group in figures.dead_letters if group.kind != "callback"] == [
        DeadLetterFigures("message", "sandbox", "http_400", 2),
        DeadLetterFigures("report", None, "report_timeout", 3),
    ]
    assert len(figures.dead_letters) == 2 + MOST_GROUPS


async def test_the_relays_sample_reaches_every_reader(store: Store, redis: FiguresStore) -> None:
    _add(store, 3)
    sampler = LedgerSampler(LedgerSample(store.pool, ["sandbox"]).take)
    relay = asyncio.create_task(publish_samples(sampler, redis, lambda: True, lambda _: None))

    async def fail(timeout: float) -> None:
        raise AssertionError("the relay has sampled")

    figures = FiguresReader(redis, LedgerSampler(fail), {})  # type: ignore[arg-type]
    await eventually(lambda: redis.read(1), lambda stored: stored.ledger is not None)
    ledger = (await figures.read()).ledger
    relay.cancel()
    assert ledger == sampler.latest
    assert ledger is not None and abs(ledger.at.timestamp() - time.time()) < 60
