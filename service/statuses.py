"""A job's status for whoever asks: from the cache if it is there, else from the ledger, which refills the cache."""

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
    """What is needed of the status cache; both raise `Transient`."""

    async def read(self, ids: Sequence[UUID], timeout: float) -> Sequence[KnownStatus | None]: ...
    async def write(self, entries: Sequence[KnownStatus], timeout: float) -> Sequence[None]: ...


Ledger = Callable[[Sequence[UUID], float], Awaitable[Sequence[KnownStatus | None]]]


class Statuses:
    """Coalesces concurrent reads (one MGET, one SELECT for many callers) and writes. Never fails because of the cache."""

    def __init__(self, cache: Cache, ledger: Ledger):
        self._outage = OutageLog("cache", "statuses come from the ledger", after_seconds=DOWN_AFTER_SECONDS)
        self._cached = Batcher(cache.read, key=_itself, max_batch=1000)
        self._stored = Batcher(ledger, key=_itself, repeat_transient=True)
        self._writes = Batcher(cache.write, max_batch=1000)

    async def read(self, id_: UUID) -> KnownStatus | None:
        """The job's status, whosever it is; None where there is no such job.

        Raises:
            DeadlineExceeded, Overloaded: neither cache nor ledger answered.
        """
        try:
            known = await self._cached.submit(id_, CACHE_SECONDS)
            self._outage.succeeded()
            if known is not None:
                return known
        except Transient as error:
            self._outage.failed(error)
        known = await self._stored.submit(id_, LEDGER_SECONDS)
        if known is not None:
            self.remember(known)
        return known

    async def read_ledger(self, id_: UUID) -> KnownStatus | None:
        """The job's status, past the cache. Raises as `read`."""
        return await self._stored.submit(id_, LEDGER_SECONDS)

    def remember(self, known: KnownStatus) -> None:
        """Put a status into the cache, soon and at leisure."""
        try:
            self._writes.post(known, CACHE_SECONDS * 5, self._written)
        except Overloaded as error:
            self._outage.failed(error)

    def _written(self, done: "asyncio.Future[None]") -> None:
        if done.cancelled():
            return
        if (error := done.exception()) is None:
            self._outage.succeeded()
        else:
            self._outage.failed(error)


def _itself(id_: UUID) -> UUID:
    return id_
