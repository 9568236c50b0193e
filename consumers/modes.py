"""Modes: how the jobs of a queue share a worker. Messages and callbacks run concurrently; reports run one at a time.

`reserve` is the context of an execution, from before the claim until the outcome is recorded. `isolate` is the context of an
attempt; it yields the monotonic start of the lease, or None if the lease is lost. `wait` returns when the call is done.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consumers.gate import QueueSwitch
from infra.errors import Transient
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome

log = structlog.get_logger()

PROGRESS_SECONDS = 1.0
CLOSED_SECONDS = 2.0


@dataclass(eq=False)
class Renewer:
    """Renews the lease of a long job every second, at least four times in a lease, and writes its progress to the ledger."""

    renew: Callable[[Claimed, float, Progress, float], Awaitable[bool]]
    lease_seconds: float

    async def begin(self, job: Claimed) -> bool:
        """Renew the lease of a job that has lost one before. False: the lease is lost, or Postgres does not answer."""
        is_held = await self._try(job, Progress(), effect="the reaper retries the job")
        if is_held is False:
            log.warning("lease.lost", id=str(job.id), version=job.version, effect="the attempt does not begin")
        return bool(is_held)

    async def keep(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        """Renew until `call` is done, then write its last progress. A lost lease cancels it: its outcome would be rejected."""
        while True:
            await asyncio.wait({call}, timeout=min(PROGRESS_SECONDS, self.lease_seconds / 4))
            if call.done():
                await self._try(job, progress)
                return
            # Without an answer the lease may expire. The fence then rejects the outcome, so the call may continue.
            if await self._try(job, progress) is False and not call.done():
                log.warning("lease.lost", id=str(job.id), version=job.version, effect="the attempt is cancelled")
                call.cancel()
                await asyncio.wait({call})
                return

    async def _try(self, job: Claimed, progress: Progress, **logged: str) -> bool | None:
        """Renew the lease. Whether it is still held; None: Postgres does not answer."""
        try:
            return await self.renew(job, self.lease_seconds, progress, self.lease_seconds / 4)
        except Transient as error:
            log.debug("lease.not_renewed", id=str(job.id), version=job.version, reason=str(error), **logged)
            return None


class Quarantine:
    """Admits many harmless jobs at once, or one suspect: a job that may have killed workers makes its last attempt alone.

    A killed worker loses the leases of all its jobs. Without quarantine, its other jobs would exhaust their lost leases, too.

    A suspect closes the quarantine, waits until the running jobs have ended, and starts. After `closed_seconds` in all, other
    jobs are admitted beside it: a suspect that waits for a hanging provider must not stop all other providers. The quarantine
    then stays open as long as it was closed, before the next suspect closes it.
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


@dataclass(eq=False)
class Concurrent:
    """Many short jobs at once. A job that may have killed workers runs in quarantine, under a renewed lease.

    `limit`: the lost leases that end a job.
    """

    renewer: Renewer
    limit: int
    monotonic: Callable[[], float] = time.monotonic
    quarantine: Quarantine = field(default_factory=Quarantine)

    @asynccontextmanager
    async def reserve(self, queue: str) -> AsyncIterator[None]:
        await self.quarantine.wait_until_open()
        yield

    @asynccontextmanager
    async def isolate(self, job: Claimed, claimed_at: float) -> AsyncIterator[float | None]:
        async with self.quarantine.enter(suspect=job.lost_leases + 1 >= self.limit > 1):
            begun_at = self.monotonic()
            if not job.lost_leases:
                yield claimed_at
            else:
                yield begun_at if await self.renewer.begin(job) else None

    async def wait(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        done = asyncio.get_running_loop().create_future()  # asyncio.wait() for one task, at a fraction of its cost
        call.add_done_callback(lambda _: None if done.done() else done.set_result(None))
        await done


@dataclass(eq=False)
class Exclusive:
    """One long job at a time. Its lease is renewed, and the worker takes no other job of the queue meanwhile."""

    renewer: Renewer
    switch: QueueSwitch

    @asynccontextmanager
    async def reserve(self, queue: str) -> AsyncIterator[None]:
        await self.switch.pause(queue)
        try:
            yield
        finally:
            await self.switch.resume(queue)

    @asynccontextmanager
    async def isolate(self, job: Claimed, claimed_at: float) -> AsyncIterator[float | None]:
        yield claimed_at  # an attempt takes minutes: no other job waits for its end

    async def wait(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        await self.renewer.keep(job, progress, call)


class Mode(Protocol):
    """See the module."""

    def reserve(self, queue: str) -> AbstractAsyncContextManager[None]: ...
    def isolate(self, job: Claimed, claimed_at: float) -> AbstractAsyncContextManager[float | None]: ...
    async def wait(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None: ...
