"""The promises of every status cache; the fake and Redis pass the same suite."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from tests.support.factories import new_id
from tests.support.fakes import FakeCache
from tests.support.services import Services

AnyCache = StatusCache | FakeCache
SECONDS = 10.0
pytestmark = pytest.mark.usefixtures("patient_redis")


@pytest.fixture(params=["fake", "redis"])
async def cache(request: pytest.FixtureRequest, services: Services, namespace: str) -> AsyncIterator[AnyCache]:
    if request.param == "fake":
        yield FakeCache()
        return
    real = StatusCache(services.redis, namespace=namespace, ttl_seconds=5)
    yield real
    await real.close()


def _known(version: int, status: Status, age: float = 0.0) -> KnownStatus:
    return KnownStatus(ID, version, status, Kind.MESSAGE, "default", time.monotonic() - age)


ID = new_id()


async def _read(cache: AnyCache) -> tuple[int, Status, str] | None:
    (status,) = await cache.read([ID], SECONDS)
    return None if status is None else (status.version, status.status, status.client_id)


async def test_an_unknown_job_is_none(cache: AnyCache) -> None:
    assert await cache.read([new_id(), new_id()], SECONDS) == [None, None]


async def test_a_written_status_is_read(cache: AnyCache) -> None:
    await cache.write([_known(1, Status.QUEUED)], SECONDS)
    assert await _read(cache) == (1, Status.QUEUED, "default")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
async def test_the_newest_version_wins_in_any_order(cache: AnyCache, order: tuple[int, ...]) -> None:
    statuses = {1: Status.QUEUED, 2: Status.PROCESSING, 3: Status.SENT}
    for version in order:
        await cache.write([_known(version, statuses[version])], SECONDS)
    assert await _read(cache) == (3, Status.SENT, "default")


async def test_the_newest_version_wins_within_one_batch(cache: AnyCache) -> None:
    await cache.write([_known(3, Status.SENT), _known(2, Status.PROCESSING)], SECONDS)
    assert await _read(cache) == (3, Status.SENT, "default")


async def test_a_write_long_after_its_read_is_dropped(cache: AnyCache) -> None:
    await cache.write([_known(1, Status.QUEUED, age=1.5)], SECONDS)
    assert await _read(cache) is None


async def test_states_with_an_exit_expire_in_seconds_and_final_ones_do_not(services: Services, namespace: str) -> None:
    cache = StatusCache(services.redis, namespace=namespace, ttl_seconds=5)
    done = new_id()
    await cache.write([_known(1, Status.RETRYING), replace(_known(2, Status.DELIVERED), id=done)], SECONDS)
    short = await cache._redis.pttl(cache._key(ID))
    long = await cache._redis.pttl(cache._key(done))
    assert 0 < short <= 5000
    assert long > 1_000_000
    await cache.close()


@pytest.mark.parametrize("value", ["7 teleported message default", "7 sent pigeon default", "x sent message default", "7", ""])
async def test_a_value_of_another_release_is_a_miss_and_makes_way(services: Services, namespace: str, value: str) -> None:
    cache = StatusCache(services.redis, namespace=namespace, ttl_seconds=5)
    other = new_id()
    await cache.write([replace(_known(2, Status.SENT), id=other)])
    await cache._redis.set(cache._key(ID), value)
    assert [known and known.status for known in await cache.read([ID, other])] == [None, Status.SENT]
    await cache.write([_known(8, Status.SENT)])
    assert await _read(cache) == (8, Status.SENT, "default")
    await cache.close()
