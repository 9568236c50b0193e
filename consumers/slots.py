"""Slots: the calls of one provider that a process runs at once, and the claims ahead of them, shared by its priorities."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs.model import Priority

AHEAD_SECONDS = 0.1  # jobs are claimed ahead for so long: a claim must not wait, and a lease must not expire, before its call
_SMOOTHING = 16  # calls


class _Permits:
    """At most `limit` permits. Priority `high` goes first, in order of arrival.

    One permit in ten is reserved for `normal`, so that a flood of `high` does not starve it. A single permit is not reserved.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._used = dict.fromkeys(Priority, 0)
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}

    def limit(self, limit: int) -> None:
        self._limit = limit
        self._grant()

    def is_idle(self) -> bool:
        return sum(self._used.values()) < self._limit and not any(self._waiting.values())

    async def acquire(self, priority: Priority) -> None:
        """Wait until a permit is granted."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(waiter)
        self._grant()
        try:
            if not waiter.done():
                await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # granted just before the cancellation
                self.release(priority)
            raise

    def release(self, priority: Priority) -> None:
        self._used[priority] -= 1
        self._grant()

    def _grant(self) -> None:
        while sum(self._used.values()) < self._limit and (priority := self._next()):
            self._used[priority] += 1
            self._waiting[priority].popleft().set_result(None)

    def _next(self) -> Priority | None:
        for waiting in self._waiting.values():
            while waiting and waiting[0].cancelled():
                waiting.popleft()
        reserved = -(-self._limit // 10) if self._limit > 1 else 0
        if self._waiting[Priority.HIGH] and self._used[Priority.HIGH] < self._limit - reserved:
            return Priority.HIGH
        return Priority.NORMAL if self._waiting[Priority.NORMAL] else None


class Slots:
    """`count` calls at once. `claims_ahead`: jobs are claimed before a slot is free, so that no slot waits for Postgres.

    A job holds its claim until its outcome is recorded. Jobs are claimed ahead as many as the slots finish in `AHEAD_SECONDS`,
    at most `count`, and none while the slots are limited.
    """

    def __init__(self, count: int, *, claims_ahead: bool = False):
        self.count = count
        self._claims_ahead = claims_ahead
        self._limit = count
        self._call_seconds = AHEAD_SECONDS * count
        self._calls, self._claims = _Permits(count), _Permits(count)

    def limit(self, limit: int) -> None:
        """Grant at most `limit` slots at once from now on; slots that are in use stay so."""
        self._limit = limit
        self._calls.limit(limit)
        self._set_pace()

    def is_idle(self) -> bool:
        """Whether another job may be claimed, and none waits for that."""
        return self._claims.is_idle()

    @asynccontextmanager
    async def claim(self, priority: Priority) -> AsyncIterator[None]:
        """Hold one claim; waits until it is granted."""
        await self._claims.acquire(priority)
        try:
            yield
        finally:
            self._claims.release(priority)

    @asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Hold one slot during a call; waits until it is granted."""
        await self._calls.acquire(priority)
        started = time.monotonic()
        try:
            yield
        finally:
            self._call_seconds += (time.monotonic() - started - self._call_seconds) / _SMOOTHING
            self._calls.release(priority)
            self._set_pace()

    def _set_pace(self) -> None:
        ahead = min(self.count, int(self.count * AHEAD_SECONDS / max(self._call_seconds, 1e-6)))
        self._claims.limit(self._limit + (ahead if self._claims_ahead and self._limit == self.count else 0))
