"""Notifications of transitions. The status cache publishes each write, and one subscription in each process receives it."""

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import structlog
from redis.asyncio import Redis

from infra.logs import OutageLog
from infra.redis import connection
from infra.redis.status_cache import channel, parse
from jobs.model import KnownStatus

log = structlog.get_logger()

_POLL_SECONDS = 1.0
_HEALTH_SECONDS = 5
_PAUSE_SECONDS = 0.5


class Events:
    """Calls `notify` for each status that any process caches. Lost writes and outages of Redis lose notifications."""

    def __init__(self, url: str, *, namespace: str, notify: Callable[[KnownStatus], None]):
        pool = connection.open_pool(url, 2, socket_timeout=_HEALTH_SECONDS, health_check_interval=_HEALTH_SECONDS)
        self._redis = Redis.from_pool(pool)
        self._channel = channel(namespace)
        self._notify = notify
        self._outage = OutageLog("events", "waiting clients are notified by reading the ledger")
        self.subscribed = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except connection.ERRORS as error:
                self._outage.failed(error)
            finally:
                self.subscribed.clear()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            while True:
                message = await pubsub.get_message(timeout=_POLL_SECONDS)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._outage.succeeded()
                    self.subscribed.set()
                elif message["type"] == "message":
                    self._publish(message["data"].decode())

    def _publish(self, text: str) -> None:
        id_, _, value = text.partition(" ")
        try:
            status = parse(UUID(id_), value, time.monotonic())
        except ValueError:
            log.debug("events.unreadable", text=text[:100])
            return
        if status is not None:
            self._notify(status)

    async def close(self) -> None:
        await self._redis.aclose()
