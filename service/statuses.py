"""The statuses of jobs: from the cache, or from the ledger, which refills the cache; and the clients that wait for a change.

A subscription starts before the first read and rereads periodically, so a lost notification delays it by `reread_seconds`.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import islice
from typing import Protocol
from uuid import UUID

import structlog

from infra.errors import Transient
from infra.logs import OutageLog
from infra.monitoring import metrics
from jobs.model import KnownStatus
from service.batching import Batcher, Overloaded

log = structlog.get_logger()

CACHE_SECONDS = 0.06  # a little over the cache's own limit of 50 ms
LEDGER_SECONDS = 0.8
PROCESSING_SECONDS = 0.05
MAX_WRITTEN = 1000  # statuses in one write
MAX_UNWRITTEN = 20_000  # waiting statuses; further ones are dropped, and read from the ledger


class Cache(Protocol):
    """The part of the status cache that is used here. Both methods raise `Transient`."""

    async def read(self, ids: Sequence[UUID], timeout: float) -> Sequence[KnownStatus | None]: ...
    async def write(self, entries: Sequence[KnownStatus], timeout: float) -> Sequence[None]: ...


class Statuses:
    """Coalesces concurrent reads (one MGET, one SELECT for many callers) and writes. The cache's errors never reach callers."""

    def __init__(self, cache: Cache, ledger: Callable[[Sequence[UUID], float], Awaitable[Sequence[KnownStatus | None]]]):
        self._outage = OutageLog("cache", "statuses come from the ledger")
        self._cache_reads = Batcher(cache.read, key=lambda id_: id_, max_batch=1000)
        self._ledger_reads = Batcher(ledger, key=lambda id_: id_, repeat_transient=True)
        self._write_batch = cache.write
        self._unwritten: dict[UUID, KnownStatus] = {}
        self._running: dict[UUID, KnownStatus] = {}  # in `processing`, and not yet to be written
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None

    async def read(self, id_: UUID) -> KnownStatus | None:
        """The status of any client's job; None: there is none. Raises `Transient` if neither cache nor ledger answers."""
        status = None
        try:
            status = await self._cache_reads.submit(id_, CACHE_SECONDS)
            self._outage.succeeded()
            metrics.CACHE_READS[("miss" if status is None else "hit"),].inc()
        except Transient as error:
            self._outage.failed(error)
            metrics.CACHE_READS["error",].inc()
        if status is None and (status := await self.read_ledger(id_)) is not None:
            self.cache(status)
        return status

    async def read_ledger(self, id_: UUID) -> KnownStatus | None:
        """The job's status, without the cache. Raises as `read`."""
        return await self._ledger_reads.submit(id_, LEDGER_SECONDS)

    def cache(self, status: KnownStatus) -> None:
        """Write a status to the cache in the background. No `Batcher`: nobody awaits a write, so no write needs a future."""
        if self._has_room():
            running = self._running.get(status.id)
            if running is not None and running.version <= status.version:
                del self._running[status.id]
            self._write_soon([status])

    def cache_claim(self, status: KnownStatus) -> None:
        """Write `processing` after `PROCESSING_SECONDS`, unless a later status comes first: most calls are short."""
        if self._has_room():
            self._running[status.id] = status
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(PROCESSING_SECONDS, self._write_running)

    def _has_room(self) -> bool:
        if len(self._unwritten) + len(self._running) < MAX_UNWRITTEN:
            return True
        self._outage.failed(Overloaded(f"{MAX_UNWRITTEN} statuses wait for the cache"))
        return False

    def _write_running(self) -> None:
        self._timer = None
        running, self._running = self._running, {}
        self._write_soon(running.values())

    def _write_soon(self, statuses: Iterable[KnownStatus]) -> None:
        for status in statuses:
            waiting = self._unwritten.get(status.id)
            if waiting is None or waiting.version < status.version:
                self._unwritten[status.id] = status
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def written(self) -> None:
        """Wait until no write is waiting or under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._write_running()
        while self._writer is not None:
            await asyncio.shield(self._writer)

    async def _write(self) -> None:
        try:
            while self._unwritten:
                batch = list(islice(self._unwritten.values(), MAX_WRITTEN))
                for status in batch:
                    del self._unwritten[status.id]
                try:
                    await self._write_batch(batch, CACHE_SECONDS)
                    self._outage.succeeded()
                except Transient as error:
                    self._outage.failed(error)
                except Exception:
                    log.exception("cache.write_failed", jobs=[str(status.id) for status in batch[:10]])
        finally:
            self._writer = None


class Subscription:
    """One waiting client of one job. `wake_up` makes it check whether it is active."""

    def __init__(self, subscriptions: "Subscriptions", id_: UUID, is_active: Callable[[], bool]):
        self._subscriptions = subscriptions
        self._is_active = is_active
        self._id = id_
        self._latest: KnownStatus | None = None
        self.wake_up = asyncio.Event()

    def notify(self, status: KnownStatus) -> None:
        if self._latest is None or status.version > self._latest.version:
            self._latest = status
            self.wake_up.set()

    @property
    def active(self) -> bool:
        """Whether the client still waits."""
        return not self._subscriptions.closed and self._is_active()

    async def after(self, version: int, seconds: float = float("inf")) -> KnownStatus | None:
        """The first status newer than `version`; None after `seconds`, or when the subscription ends."""
        deadline = time.monotonic() + seconds
        while self.active:
            if self._latest is not None and self._latest.version > version:
                return self._latest
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                return None
            self.wake_up.clear()
            pause = self._subscriptions.reread_seconds * random.uniform(0.75, 1.25)  # noqa: S311  spreads the rereads
            try:
                async with asyncio.timeout(min(seconds_left, pause)):
                    await self.wake_up.wait()
            except TimeoutError:
                with suppress(Transient):  # the next reread may succeed
                    if (status := await self._subscriptions.read(self._id)) is not None:
                        self.notify(status)
        return None


class Subscriptions:
    """All subscriptions of one process. `read` reads the ledger; during `watch(id)`, notifications of the job arrive."""

    def __init__(
        self,
        read: Callable[[UUID], Awaitable[KnownStatus | None]],
        watch: Callable[[UUID], AbstractAsyncContextManager[None]],
        *,
        reread_seconds: float,
    ):
        self.read = read
        self._watch = watch
        self.reread_seconds = reread_seconds
        self.closed = False
        self._by_job: defaultdict[UUID, set[Subscription]] = defaultdict(set)

    @asynccontextmanager
    async def subscribe(self, id_: UUID, is_active: Callable[[], bool] = lambda: True) -> AsyncIterator[Subscription]:
        """Receive a job's status changes from now on, while `is_active()` holds; `wake` makes every subscription check it."""
        subscription = Subscription(self, id_, is_active)
        self._by_job[id_].add(subscription)
        try:
            async with self._watch(id_):
                yield subscription
        finally:
            self._by_job[id_].discard(subscription)
            if not self._by_job[id_]:
                del self._by_job[id_]

    def notify(self, status: KnownStatus) -> None:
        """Notify the subscriptions of the status' job."""
        for subscription in self._by_job.get(status.id, ()):
            subscription.notify(status)

    def close(self) -> None:
        """End every subscription at shutdown. Each request then answers with its last status."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Make every subscription check whether it is active."""
        for subscriptions in self._by_job.values():
            for subscription in subscriptions:
                subscription.wake_up.set()
