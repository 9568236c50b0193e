"""Notifications of transitions. The status cache publishes each write on the channel of its job's shard.

A process subscribes to a shard while a client waits for one of its jobs. Processes without waiting clients receive nothing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from redis.asyncio.connection import AbstractConnection

from infra.logs import OutageLog
from infra.redis import connection
from infra.redis.status_cache import SHARD_DIGITS, channel
from infra.redis.status_cache import parse as parse_value
from jobs.model import KnownStatus

log = structlog.get_logger()

_CHECK_SECONDS = 1.0  # between two checks for unused shards, each with a PING
_SILENCE_SECONDS = 5.0  # without any answer: the connection is dead
_PAUSE_SECONDS = 0.5


@dataclass(slots=True)
class _Shard:
    watchers: int = 0
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)  # by Redis: from now on, no notification is missed


class Events:
    """Receives the statuses that any process caches for watched shards. Lost writes and outages of Redis lose notifications."""

    def __init__(self, url: str, *, namespace: str):
        # With a timeout for each write, redis-py calls `asyncio.wait_for`, which loses cancellations in Python 3.11.
        self._pool = connection.open_pool(url, 1)
        # Former releases publish all statuses on the channel without a shard; this release publishes nothing there.
        self._channel = channel(namespace)
        self._shards: defaultdict[str, _Shard] = defaultdict(_Shard)  # by channel; at most 16 ** SHARD_DIGITS
        self._unfollowed: set[str] = set()  # watched shards to which no SUBSCRIBE was sent
        self._changed = asyncio.Event()
        self._outage = OutageLog("events", "waiting clients are notified by reading the ledger")
        self.subscribed = asyncio.Event()

    @asynccontextmanager
    async def watch(self, id_: UUID) -> AsyncIterator[None]:
        """Receive the job's notifications. The block begins when Redis has confirmed the subscription, or after 50 ms."""
        name = f"{self._channel}:{str(id_)[-SHARD_DIGITS:]}"
        if name not in self._shards:
            self._unfollowed.add(name)
            self._changed.set()
        shard = self._shards[name]
        shard.watchers += 1
        try:
            if self.subscribed.is_set() and not shard.confirmed.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(connection.CALL_SECONDS):
                        await shard.confirmed.wait()
            yield
        finally:
            shard.watchers -= 1

    async def run(self, notify: Callable[[KnownStatus], None]) -> None:
        """Call `notify` for each notification, until cancelled."""
        while True:
            try:
                await self._listen(notify)
            except* connection.ERRORS as errors:
                self._outage.failed(errors.exceptions[0])
            finally:
                self._forget()
            await asyncio.sleep(_PAUSE_SECONDS)

    def _forget(self) -> None:
        """The connection has ended: the next one subscribes to the shards that are still watched."""
        self.subscribed.clear()
        for name, shard in list(self._shards.items()):
            shard.confirmed.clear()
            if not shard.watchers:
                del self._shards[name]
        self._unfollowed = set(self._shards)

    async def _listen(self, notify: Callable[[KnownStatus], None]) -> None:
        async with asyncio.timeout(_SILENCE_SECONDS):
            link = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await link.send_command("SUBSCRIBE", self._channel)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(link))
                tasks.create_task(self._receive(link, notify))
        finally:
            await link.disconnect(nowait=True)
            await self._pool.release(link)

    async def _follow(self, link: AbstractConnection) -> None:
        """Subscribe to shards that are watched, and unsubscribe from those that nobody watches any more."""
        while True:
            self._changed.clear()
            if self._unfollowed:
                names, self._unfollowed = self._unfollowed, set()
                await link.send_command("SUBSCRIBE", *names)
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                await link.send_command("PING")
                if unused := [name for name, shard in self._shards.items() if not shard.watchers]:
                    for name in unused:
                        del self._shards[name]
                    self._unfollowed.difference_update(unused)
                    await link.send_command("UNSUBSCRIBE", *unused)

    async def _receive(self, link: AbstractConnection, notify: Callable[[KnownStatus], None]) -> None:
        while True:
            message = await link.read_response(timeout=_SILENCE_SECONDS, disconnect_on_error=False, push_request=True)
            if message is None:
                raise TimeoutError(f"no answer for {_SILENCE_SECONDS:g} s")
            match message:
                case [b"subscribe", name, _]:
                    self._confirm(name.decode())
                case [b"message", _, data]:
                    if (status := _parse(data)) is not None:
                        notify(status)

    def _confirm(self, name: str) -> None:
        if name == self._channel:
            self._outage.succeeded()
            self.subscribed.set()
        elif name in self._shards:
            self._shards[name].confirmed.set()

    async def close(self) -> None:
        await self._pool.aclose()


def _parse(data: bytes) -> KnownStatus | None:
    id_, _, value = data.partition(b" ")
    try:
        return parse_value(UUID(id_.decode()), value, time.monotonic())
    except ValueError:
        log.debug("events.unreadable", text=repr(data[:100]))
        return None
