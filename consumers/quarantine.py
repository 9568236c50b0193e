"""Quarantine: a job that may have killed workers makes its last attempt alone.

A killed worker loses the leases of all its jobs. Without quarantine, its other jobs would exhaust their lost leases, too. The
exclusion has a limit: a suspect that waits for a hanging provider must not stop all other providers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CLOSED_SECONDS = 2.0


class Quarantine:
    """Admits many harmless jobs at once, or one suspect.

    A suspect closes the quarantine, waits until the running jobs have ended, and starts. After `closed_seconds` in all, other
    jobs are admitted beside it. The quarantine then stays open as long as it was closed, before the next suspect closes it.
    """

    def __init__(self, closed_seconds: float = CLOSED_SECONDS) -> None:
        self._closed_seconds = closed_seconds
        self._running = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = asyncio.Event()
        self._open.set()
        self._suspects = asyncio.Lock()
        self._closed_at = 0.0
        self._may_close_at = 0.0

    async def wait_until_open(self) -> None:
        """Wait while the quarantine is closed. Called before a claim, as an unclaimed job cannot lose a lease."""
        await self._open.wait()

    @asynccontextmanager
    async def enter(self, *, suspect: bool) -> AsyncIterator[None]:
        """The context of an attempt. A `suspect` excludes other jobs, within the limit."""
        if suspect:
            async with self._suspects, self._closed():
                yield
            return
        await self.wait_until_open()
        self._running += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._empty.set()

    @asynccontextmanager
    async def _closed(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._may_close_at - loop.time()))
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
            self._may_close_at = now + (now - self._closed_at)
            self._open.set()
