"""The statuses of jobs: from the cache, or from the ledger, which refills the cache."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

from infra.errors import Transient
from infra.outage_log import OutageLog
from jobs.model import KnownStatus
from service.batching import Batcher, Overloaded

CACHE_SECONDS = 0.06  # a little over the cache's own limit of 50 ms
LEDGER_SECONDS = 0.8
DOWN_AFTER_SECONDS = 1.0


class Cache(Protocol):
    """The part of the status cache that is used here. Both methods raise `Transient`."""

    async def read(self, ids: Sequence[UUID], timeout: float) -> Sequence[KnownStatus | None]: ...
    async def write(self, entries: Sequence[KnownStatus], timeout: float) -> Sequence[None]: ...


class Statuses:
    """Coalesces concurrent reads (one MGET, one SELECT for many callers) and writes. The cache's errors never reach callers."""

    def __init__(self, cache: Cache, ledger: Callable[[Sequence[UUID], float], Awaitable[Sequence[KnownStatus | None]]]):
        self._outage = OutageLog("cache", "statuses come from the ledger", after_seconds=DOWN_AFTER_SECONDS)
        self._cache_reads = Batcher(cache.read, key=lambda id_: id_, max_batch=1000)
        self._ledger_reads = Batcher(ledger, key=lambda id_: id_, repeat_transient=True)
        self._writes = Batcher(cache.write, max_batch=1000)

    async def read(self, id_: UUID) -> KnownStatus | None:
        """The status of any client's job; None: there is no such job.

        Raises:
            DeadlineExceeded, Overloaded: neither cache nor ledger answered.
        """
        try:
            status = await self._cache_reads.submit(id_, CACHE_SECONDS)
            self._outage.succeeded()
            if status is not None:
                return status
        except Transient as error:
            self._outage.failed(error)
        status = await self.read_ledger(id_)
        if status is not None:
            self.cache(status)
        return status

    async def read_ledger(self, id_: UUID) -> KnownStatus | None:
        """The job's status, without the cache. Raises as `read`."""
        return await self._ledger_reads.submit(id_, LEDGER_SECONDS)

    def cache(self, status: KnownStatus) -> None:
        """Write a status to the cache in the background."""
        try:
            self._writes.post(status, CACHE_SECONDS * 5, self._record_write)
        except Overloaded as error:
            self._outage.failed(error)

    def _record_write(self, write: "asyncio.Future[None]") -> None:
        if (error := write.exception()) is None:
            self._outage.succeeded()
        else:
            self._outage.failed(error)
