"""Quarantine: a job that may have taken workers down is tried for the last time with nobody beside it.

A worker that is killed by one job loses the leases of all that it had in hand. Without this its neighbours would be counted out
together with it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Quarantine:
    """Many harmless jobs at once, or one suspect. While a suspect waits or is inside, the door is closed for what comes."""

    def __init__(self) -> None:
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._door = asyncio.Lock()

    async def door_open(self) -> None:
        """Wait, before a job is claimed, until no suspect is about: what is not claimed cannot be lost."""
        if self._door.locked():
            async with self._door:
                return

    @asynccontextmanager
    async def enter(self, *, suspect: bool) -> AsyncIterator[None]:
        """Be inside, alone if `suspect`."""
        if suspect:
            async with self._door:
                await self._empty.wait()
                yield
            return
        await self.door_open()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
