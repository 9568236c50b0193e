"""Cached transitions notify every process, and again after an outage of Redis."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from infra.redis.events import Events
from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from tests.support.factories import new_id
from tests.support.proxy import Proxy
from tests.support.services import Services, proxied
from tests.support.waiting import eventually

ID = new_id()
SECONDS = 10.0


def _known(version: int, status: Status) -> KnownStatus:
    return KnownStatus(ID, version, status, Kind.MESSAGE, "default", time.monotonic())


class Heard:
    """A process that listens through a proxy and records its notifications."""

    def __init__(self, url: str, proxy: Proxy, namespace: str):
        self.proxy = proxy
        self.versions: list[tuple[int, Status]] = []
        self.events = Events(url, namespace=namespace, notify=lambda known: self.versions.append((known.version, known.status)))

    async def until(self, count: int) -> list[tuple[int, Status]]:
        async def seen() -> list[tuple[int, Status]]:
            return self.versions

        return await eventually(seen, lambda versions: len(versions) >= count)


@pytest.fixture
async def heard(services: Services, namespace: str) -> AsyncIterator[Heard]:
    url, proxy = await proxied(services.redis)
    listener = Heard(url, proxy, namespace)
    running = asyncio.create_task(listener.events.run())
    await asyncio.wait_for(listener.events.subscribed.wait(), 10)
    yield listener
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await listener.events.close()
    await proxy.close()


@pytest.fixture
async def cache(services: Services, namespace: str, patient_redis: None) -> AsyncIterator[StatusCache]:
    found = StatusCache(services.redis, namespace=namespace, ttl_seconds=5)
    yield found
    await found.close()


async def test_newer_versions_are_notified_once_and_in_order(heard: Heard, cache: StatusCache) -> None:
    for version, status in ((1, Status.QUEUED), (3, Status.SENT), (2, Status.PROCESSING), (3, Status.SENT)):
        await cache.write([_known(version, status)], SECONDS)
    await cache.write([_known(4, Status.FAILED)], SECONDS)
    assert await heard.until(3) == [(1, Status.QUEUED), (3, Status.SENT), (4, Status.FAILED)]


async def test_listening_continues_after_redis_was_down(heard: Heard, cache: StatusCache) -> None:
    await heard.proxy.refuse()

    async def subscribed() -> bool:
        return heard.events.subscribed.is_set()

    await eventually(subscribed, lambda there: not there)
    await cache.write([_known(1, Status.QUEUED)], SECONDS)  # a lost notification: waiting clients reread
    await heard.proxy.accept()
    await eventually(subscribed, bool)
    await cache.write([_known(2, Status.PROCESSING)], SECONDS)
    assert await heard.until(1) == [(2, Status.PROCESSING)]


async def test_listening_continues_after_an_event_that_this_release_cannot_read(heard: Heard, cache: StatusCache) -> None:
    for text in (f"{ID} 7 teleported message default", "nonsense", ""):
        await cache._redis.publish(cache._channel, text)
    await cache.write([_known(8, Status.SENT)], 1)
    assert await heard.until(1) == [(8, Status.SENT)]
    assert heard.events.subscribed.is_set()
