"""Cached transitions notify the processes in which somebody waits, and again after an outage of Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from redis.asyncio import Redis

from infra.redis import events
from infra.redis.events import Events
from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from tests.support.asgi import api, call, started
from tests.support.factories import new_id
from tests.support.proxy import Proxy
from tests.support.services import Services, proxied
from tests.support.waiting import eventually, until

ID = new_id()
SECONDS = 10.0
pytestmark = pytest.mark.usefixtures("patient_redis")


def _known(version: int, status: Status) -> KnownStatus:
    return KnownStatus(ID, version, status, Kind.MESSAGE, "default", time.monotonic())


class Listener:
    """A process that listens through a proxy and records its notifications."""

    def __init__(self, url: str, proxy: Proxy, namespace: str):
        self.proxy = proxy
        self.known: list[KnownStatus] = []
        self.events = Events(url, namespace=namespace)
        self.prefix = f"{namespace}:events:"

    async def until(self, count: int) -> list[tuple[int, Status]]:
        await until(lambda: len(self.known), lambda notifications: notifications >= count)
        return [(known.version, known.status) for known in self.known]

    def shard(self, id_: UUID = ID) -> bytes:
        return f"{self.prefix}{str(id_)[-3:]}".encode()


@pytest.fixture
async def listener(services: Services, namespace: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listener]:
    monkeypatch.setattr(events, "_CHECK_SECONDS", 0.05)
    url, proxy = await proxied(services.redis)
    listener = Listener(url, proxy, namespace)
    running = asyncio.create_task(listener.events.run(listener.known.append))
    await asyncio.wait_for(listener.events.subscribed.wait(), 10)
    yield listener
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await listener.events.close()
    await proxy.close()


@pytest.fixture
async def cache(services: Services, namespace: str) -> AsyncIterator[StatusCache]:
    found = StatusCache(services.redis, namespace=namespace, ttl_seconds=5)
    yield found
    await found.close()


@pytest.fixture
async def redis(services: Services) -> AsyncIterator[Redis]:
    async with Redis.from_url(services.redis) as found:
        yield found


async def _shards(redis: Redis, listener: Listener) -> Sequence[bytes | str]:
    """The shards with subscribers."""
    return await redis.pubsub_channels(f"{listener.prefix}*")


async def test_newer_versions_are_notified_once_and_in_order(listener: Listener, cache: StatusCache) -> None:
    async with listener.events.watch(ID):
        for version, status in ((1, Status.QUEUED), (3, Status.SENT), (2, Status.PROCESSING), (3, Status.SENT)):
            await cache.write([_known(version, status)], SECONDS)
        await cache.write([_known(4, Status.FAILED)], SECONDS)
        assert await listener.until(3) == [(1, Status.QUEUED), (3, Status.SENT), (4, Status.FAILED)]


async def test_a_process_without_watchers_receives_nothing(listener: Listener, cache: StatusCache, redis: Redis) -> None:
    assert await _shards(redis, listener) == []
    await cache.write([replace(_known(1, Status.QUEUED), id=new_id()) for _ in range(100)], SECONDS)
    await cache.write([_known(1, Status.QUEUED)], SECONDS)
    async with listener.events.watch(ID):
        await cache.write([_known(2, Status.PROCESSING)], SECONDS)
        assert await listener.until(1) == [(2, Status.PROCESSING)]


async def test_a_shard_is_subscribed_when_the_watch_begins_and_until_the_last_watcher_leaves(
    listener: Listener, redis: Redis
) -> None:
    async with listener.events.watch(ID):
        for _ in range(3):
            async with listener.events.watch(ID), listener.events.watch(other := new_id()):
                assert set(await _shards(redis, listener)) == {listener.shard(), listener.shard(other)}
            await eventually(lambda: _shards(redis, listener), lambda names: names == [listener.shard()])
    await eventually(lambda: _shards(redis, listener), lambda names: names == [])
    assert not listener.events._shards


async def test_listening_continues_after_redis_was_down(listener: Listener, cache: StatusCache, redis: Redis) -> None:
    async with listener.events.watch(ID):
        await listener.proxy.refuse()
        await until(listener.events.subscribed.is_set, lambda is_subscribed: not is_subscribed)
        await cache.write([_known(1, Status.QUEUED)], SECONDS)  # a lost notification: waiting clients reread
        async with listener.events.watch(other := new_id()):  # does not wait for Redis
            await listener.proxy.accept()
            both = {listener.shard(), listener.shard(other)}
            await eventually(lambda: _shards(redis, listener), lambda names: set(names) == both)
            await cache.write([_known(2, Status.PROCESSING)], SECONDS)
            assert await listener.until(1) == [(2, Status.PROCESSING)]


async def test_a_silent_connection_is_replaced(listener: Listener, cache: StatusCache, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listener.events.watch(ID):
        listener.proxy.forsake()
        monkeypatch.setattr(events, "_SILENCE_SECONDS", 0.5)

        async def write() -> int:
            await cache.write([_known(len(listener.known) + int(time.monotonic() * 100), Status.PROCESSING)], SECONDS)
            return len(listener.known)

        await eventually(write, bool)


async def test_listening_continues_after_an_event_that_this_release_cannot_read(
    listener: Listener, cache: StatusCache, redis: Redis
) -> None:
    async with listener.events.watch(ID):
        for text in (f"{ID} 7 teleported message default", "nonsense", "", b"\xff"):
            await redis.publish(listener.shard().decode(), text)
        await cache.write([_known(8, Status.SENT)], SECONDS)
        assert await listener.until(1) == [(8, Status.SENT)]
    assert listener.events.subscribed.is_set()


async def test_a_former_release_notifies_on_the_channel_without_a_shard(listener: Listener, redis: Redis) -> None:
    await redis.publish(listener.prefix.rstrip(":"), f"{ID} 3 sent message default")
    assert await listener.until(1) == [(3, Status.SENT)]


async def test_an_api_is_subscribed_only_while_a_client_waits(
    services: Services, database: str, broker_namespace: str, redis: Redis, cache: StatusCache
) -> None:
    app, key = api(services, database, broker_namespace, auth="off"), cache._key(ID)

    async def shards() -> Sequence[bytes | str]:
        return await redis.pubsub_channels(f"{broker_namespace}:events:*")

    async def listeners() -> int:
        ((_, count),) = await redis.pubsub_numsub(f"{broker_namespace}:events")
        return int(count)

    async with started(app):
        await eventually(listeners, bool)
        await redis.set(key, "2 processing message default", px=600_000)
        assert (await call(app, f"/message/{ID}/status")) == (200, {"status": "processing"})
        assert await shards() == []
        waiting = asyncio.create_task(call(app, f"/message/{ID}/status", headers={"Prefer": "wait=60"}))
        await eventually(shards, lambda names: names == [f"{broker_namespace}:events:{str(ID)[-3:]}".encode()])
        await cache.write([_known(3, Status.SENT)], SECONDS)
        assert await waiting == (200, {"status": "sent"})
        await eventually(shards, lambda names: names == [])
