"""The sweeper: finds jobs whose messages were lost in the broker, and queues them for the relay. The active relay runs it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from consumers.process import every
from infra.logs import OutageLog
from infra.postgres.sweep import Sweep
from jobs.model import WorkQueue

log = structlog.get_logger()

CALL_SECONDS = 10.0
PAGES = 10  # of one queue in one sweep
# The relay is behind in a queue if a row has been due for so long. It then publishes messages out of order.
BEHIND_SECONDS = 5.0
# A job has lost its message if another one of its queue, due so much later, has been claimed.
OVERTAKEN = timedelta(seconds=60)


@dataclass(eq=False)
class Sweeper:
    """Sweeps each work queue every `after_seconds / 6`, a bounded number of rows at a time.

    A waiting job without an outbox row is published again in two cases. Its queue has had no ready message for
    `after_seconds`; or a job that became due a minute later has been claimed. A queue is skipped while the relay is behind in
    it, and until the messages that were published out of order have been claimed.
    """

    jobs: Sweep
    ready: Callable[[str], Awaitable[int]]
    queues: Sequence[WorkQueue]
    is_leading: Callable[[], bool]
    after_seconds: float
    _empty_since: dict[WorkQueue, float] = field(default_factory=dict, init=False)
    _behind_until: dict[WorkQueue, datetime] = field(default_factory=dict, init=False)
    _claimed_until: dict[WorkQueue, datetime] = field(default_factory=dict, init=False)
    # A pass scans jobs that were due before the first instant. Jobs due until the second one have been scanned.
    _passes: dict[WorkQueue, tuple[datetime, datetime | None]] = field(default_factory=dict, init=False)

    async def run(self) -> None:
        await every(self.after_seconds / 6, self.sweep_once, OutageLog("sweep", "lost messages are not published again"))

    async def sweep_once(self, now: float | None = None) -> int:
        """Sweep every queue if this process leads; returns the number of requeued jobs. Raises what ledger and broker raise."""
        if not self.is_leading():
            self._passes.clear()
            return 0
        now = time.monotonic() if now is None else now
        return sum(await asyncio.gather(*(self._sweep(queue, now) for queue in self.queues)))

    async def _sweep(self, queue: WorkQueue, now: float) -> int:
        if queue not in self._passes:
            before = await self._lost_before(queue, now)
            if before is None:
                return 0
            self._passes[queue] = (before, None)
        return await self._continue(queue)

    async def _lost_before(self, queue: WorkQueue, now: float) -> datetime | None:
        """The due instant before which a job without an outbox row has lost its message; None: unknown."""
        ready = await self.ready(queue.name)
        observation = await self.jobs.observe(queue, behind_seconds=BEHIND_SECONDS, timeout=CALL_SECONDS)
        if observation.is_behind or queue not in self._behind_until:
            self._behind_until[queue] = observation.now
        claimed_until = self._claimed_until.get(queue)
        if observation.claimed_until is not None and (claimed_until is None or observation.claimed_until > claimed_until):
            self._claimed_until[queue] = claimed_until = observation.claimed_until
        if ready or observation.is_behind:
            self._empty_since.pop(queue, None)
        elif now - self._empty_since.setdefault(queue, now) >= self.after_seconds:
            self._empty_since[queue] = now
            return observation.now - timedelta(seconds=self.after_seconds)
        # Jobs that became due after the relay caught up are published in order, so a claim implies all earlier claims.
        overtaken = claimed_until and claimed_until - OVERTAKEN
        return overtaken if overtaken and overtaken >= self._behind_until[queue] else None

    async def _continue(self, queue: WorkQueue) -> int:
        total = 0
        before, after = self._passes[queue]
        for _ in range(PAGES):
            page = await self.jobs.requeue(queue, before=before, after=after, timeout=CALL_SECONDS)
            total += page.requeued
            if page.last is None:
                self._passes.pop(queue, None)
                break
            # If rows of one instant fill a page, the pass skips the rest of them.
            after = page.last if page.last != after else page.last + timedelta(microseconds=1)
            self._passes[queue] = (before, after)
        if total:
            log.warning("sweep.requeued", queue=queue.name, jobs=total, reason="their messages were lost in the broker")
        return total
