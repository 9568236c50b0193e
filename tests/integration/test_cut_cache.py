"""Redis cut, frozen or wiped: reads fail by name within 50 ms, and later reads succeed."""

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from uuid import UUID

import pytest

from infra.redis.connection import CacheDown
from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from service.statuses import Statuses
from tests.support.factories import new_id
from tests.support.proxy import Proxy
from tests.support.services import Services, proxied
from tests.support.waiting import eventually


@pytest.fixture
async def cut(services: Services, namespace: str) -> AsyncIterator[tuple[StatusCache, Proxy]]:
    url, proxy = await proxied(services.redis)
    cache = StatusCache(url, namespace=namespace, ttl_seconds=5)
    yield cache, proxy
    await cache.close()
    await proxy.close()


def _sent() -> KnownStatus:
    return KnownStatus(new_id(), 3, Status.SENT, Kind.MESSAGE, "default", time.monotonic())


async def _read(cache: StatusCache, known: KnownStatus) -> KnownStatus | None:
    """The cached status; None also if Redis took over 50 ms on a busy machine."""
    try:
        return (await cache.read([known.id]))[0]
    except CacheDown:
        return None


async def _written(cache: StatusCache, *known: KnownStatus) -> None:
    async def write() -> bool:
        try:
            await cache.write([KnownStatus(k.id, k.version, k.status, k.kind, k.client_id, time.monotonic()) for k in known])
        except CacheDown:
            return False
        return True

    await eventually(write, bool, 5)


async def test_a_cut_connection_fails_one_read_at_most(cut: tuple[StatusCache, Proxy]) -> None:
    cache, proxy = cut
    known = _sent()
    await _written(cache, known)
    for _ in range(5):
        proxy.cut()
        await eventually(lambda: _read(cache, known), bool, 2)


async def test_a_frozen_redis_costs_50_ms_and_never_mixes_up_answers(cut: tuple[StatusCache, Proxy]) -> None:
    cache, proxy = cut
    first, second = _sent(), KnownStatus(new_id(), 1, Status.QUEUED, Kind.MESSAGE, "other", time.monotonic())
    await _written(cache, first, second)
    await proxy.freeze()
    took = []
    for _ in range(20):
        started = time.monotonic()
        with pytest.raises(CacheDown):
            await cache.read([first.id])
        took.append(time.monotonic() - started)
    assert max(took) < 5 and sum(took) < 20  # 50 ms each, and what a busy machine adds; without a limit, for ever
    await proxy.thaw()
    for known in (second, first) * 10:
        status = await eventually(partial(_read, cache, known), bool, 5)
        assert status is not None
        assert (status.id, status.status, status.client_id) == (known.id, known.status, known.client_id)


async def test_without_a_cache_every_status_comes_from_the_ledger(namespace: str) -> None:
    cache = StatusCache("redis://127.0.0.1:1/0", namespace=namespace, ttl_seconds=5)

    async def ledger(ids: Sequence[UUID], timeout: float) -> list[KnownStatus | None]:
        return [_sent() for _ in ids]

    statuses = Statuses(cache, ledger)
    for _ in range(3):
        status = await statuses.read(new_id())
        assert status is not None and status.status is Status.SENT
    await cache.close()
