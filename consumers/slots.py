"""Slots: the jobs of one provider that a process runs at once, shared by its priorities."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs.model import Priority


class Slots:
    """`count` slots. A free slot is granted to priority `high` first, in order of arrival.

    One slot in ten is reserved for `normal`, so that a flood of `high` does not starve it. A single slot is not reserved.
    """

    def __init__(self, count: int):
        self.count = count
        self._free = count
        self._limit = count
        self._high_left = count - -(-count // 10) if count > 1 else 1
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}

    def limit(self, limit: int) -> None:
        """Grant at most `limit` slots at once from now on; slots that are in use stay so."""
        self._limit = limit
        self._grant()

    def is_idle(self) -> bool:
        """Whether a slot is free and no job waits for one."""
        return self._free > self.count - self._limit and not any(self._waiting.values())

    @asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Hold one slot; waits until it is granted."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(waiter)
        self._grant()
        try:
            await waiter
            yield
        finally:
            if not waiter.cancelled():  # granted, possibly just before a cancellation
                self._free += 1
                self._high_left += priority is Priority.HIGH
                self._grant()

    def _grant(self) -> None:
        while self._free > self.count - self._limit and (priority := self._next()):
            self._free -= 1
            self._high_left -= priority is Priority.HIGH
            self._waiting[priority].popleft().set_result(None)

    def _next(self) -> Priority | None:
        for waiting in self._waiting.values():
            while waiting and waiting[0].cancelled():
                waiting.popleft()
        if self._waiting[Priority.HIGH] and self._high_left:
            return Priority.HIGH
        return Priority.NORMAL if self._waiting[Priority.NORMAL] else None
