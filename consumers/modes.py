"""Modes: how the jobs of a queue share a worker. Messages and callbacks run concurrently; reports run one at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from consumers.gate import QueueSwitch
from consumers.quarantine import Quarantine
from consumers.renewer import Renewer
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome


class Mode(Protocol):
    """The three points at which queues differ: before the claim, before the attempt, during the attempt."""

    def reserve(self, queue: str) -> AbstractAsyncContextManager[None]:
        """The context of an execution, from before the claim until the outcome is recorded."""
        ...

    def isolate(self, job: Claimed, claimed_at: float) -> AbstractAsyncContextManager[float | None]:
        """The context of an attempt. Yields the monotonic start of the lease; None: the lease is lost."""
        ...

    async def wait(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        """Return when the handler's call is done."""
        ...


class Concurrent:
    """Many short jobs at once. A job that may have killed workers runs in quarantine, under a renewed lease.

    `limit`: the lost leases that end a job.
    """

    def __init__(self, renewer: Renewer, limit: int, *, monotonic: Callable[[], float] = time.monotonic):
        self._renewer = renewer
        self._limit = limit
        self._monotonic = monotonic
        self._quarantine = Quarantine()

    @asynccontextmanager
    async def reserve(self, queue: str) -> AsyncIterator[None]:
        await self._quarantine.wait_until_open()
        yield

    @asynccontextmanager
    async def isolate(self, job: Claimed, claimed_at: float) -> AsyncIterator[float | None]:
        async with self._quarantine.enter(suspect=job.lost_leases + 1 >= self._limit > 1):
            begun_at = self._monotonic()
            if not job.lost_leases:
                yield claimed_at
            else:
                yield begun_at if await self._renewer.begin(job) else None

    async def wait(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        await asyncio.wait({call})


class Exclusive:
    """One long job at a time. Its lease is renewed, and the worker takes no other job of the queue meanwhile."""

    def __init__(self, renewer: Renewer, switch: QueueSwitch):
        self._renewer = renewer
        self._switch = switch

    @asynccontextmanager
    async def reserve(self, queue: str) -> AsyncIterator[None]:
        await self._switch.pause(queue)
        try:
            yield
        finally:
            await self._switch.resume(queue)

    @asynccontextmanager
    async def isolate(self, job: Claimed, claimed_at: float) -> AsyncIterator[float | None]:
        yield claimed_at  # an attempt takes minutes: no other job waits for its end

    async def wait(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        await self._renewer.keep(job, progress, call)
