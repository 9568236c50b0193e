"""Quarantine: a job that may have taken workers down is tried for the last time with nobody beside it.

A worker that is killed by one job loses the leases of all that it had in hand. Without this its neighbours would be counted out
together with it. Solitude has a limit: a suspect that waits for a hanging provider must not stop all other providers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CLOSED_SECONDS = 2.0


class Quarantine:
    """Many harmless jobs at once, or one suspect.

    A suspect closes the door for at most `closed_seconds`, until the others have left and it is done. After that it goes on in
    company. The door then stays open as long as it was closed, before the next suspect may close it.
    """

    def __init__(self, closed_seconds: float = CLOSED_SECONDS) -> None:
        self._closed_seconds = closed_seconds
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = asyncio.Event()
        self._open.set()
        self._suspects = asyncio.Lock()
        self._closed_at = 0.0
        self._rested_at = 0.0

    async def door_open(self) -> None:
        """Wait, before a job is claimed, while a suspect keeps the door closed: what is not claimed cannot be lost."""
        await self._open.wait()

    @asynccontextmanager
    async def enter(self, *, suspect: bool) -> AsyncIterator[None]:
        """Be inside, alone if `suspect`, for as long as the door may be closed."""
        if suspect:
            async with self._suspects, self._alone():
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

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._rested_at - loop.time()))
        self._open.clear()
        self._closed_at = loop.time()
        timer = loop.call_later(self._closed_seconds, self._reopen)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._closed_seconds):
                    await self._empty.wait()
            yield
        finally:
            timer.cancel()
            self._reopen()

    def _reopen(self) -> None:
        if not self._open.is_set():
            now = asyncio.get_running_loop().time()
            self._rested_at = now + (now - self._closed_at)
            self._open.set()
