"""The sweeper: finds jobs whose messages were lost in the broker, and queues them for the relay. The active relay runs it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog
from infra.postgres.sweep import Observation, Page
from jobs.model import WorkQueue

log = structlog.get_logger()

CALL_SECONDS = 10.0
PAGES = 10  # of one queue in one sweep
# The relay is behind in a queue if a row has been due for so long. It then publishes messages out of order.
BEHIND_SECONDS = 5.0
# A job has lost its message if another one of its queue, due so much later, has been claimed.
OVERTAKEN = timedelta(seconds=60)


class Jobs(Protocol):
    """The part of the ledger that the sweeper uses."""

    async def observe(self, queue: WorkQueue, *, behind_seconds: float, timeout: float) -> Observation: ...
    async def requeue(self, queue: WorkQueue, *, before: datetime, after: datetime | None, timeout: float) -> Page: ...


class Broker(Protocol):
    """The part of the publisher that the sweeper uses."""

    async def ready_messages(self, queue: str) -> int: ...


@dataclass(slots=True)
class _Pass:
    """A pass over one queue's jobs that were due before `before`. Jobs due until `after` have been scanned."""

    before: datetime
    after: datetime | None = None


class Sweeper:
    """Sweeps each work queue every `after_seconds / 6`, a bounded number of rows at a time.

    A waiting job without an outbox row is published again in two cases. Its queue has had no ready message for
    `after_seconds`; or a job that became due a minute later has been claimed. A queue is skipped while the relay is behind in
    it, and until the messages that were published out of order have been claimed.
    """

    def __init__(self, jobs: Jobs, broker: Broker, queues: Sequence[WorkQueue], *, after_seconds: float):
        self._jobs = jobs
        self._broker = broker
        self._queues = queues
        self._after = after_seconds
        self._empty_since: dict[WorkQueue, float] = {}
        self._behind_until: dict[WorkQueue, datetime] = {}
        self._claimed_until: dict[WorkQueue, datetime] = {}
        self._passes: dict[WorkQueue, _Pass] = {}

    async def run(self, is_leading: Callable[[], bool]) -> None:
        """Sweep while this process leads, until cancelled. A `Transient` error ends one sweep."""
        outage = OutageLog("sweep", "lost messages are not published again")
        while True:
            await asyncio.sleep(self._after / 6)
            if not is_leading():
                self._passes.clear()
                continue
            try:
                await self.sweep_once()
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()

    async def sweep_once(self, now: float | None = None) -> int:
        """Sweep every queue; returns the number of requeued jobs. Raises the errors of ledger and broker."""
        now = time.monotonic() if now is None else now
        return sum(await asyncio.gather(*(self._sweep(queue, now) for queue in self._queues)))

    async def _sweep(self, queue: WorkQueue, now: float) -> int:
        current = self._passes.get(queue)
        if current is None:
            before = await self._lost_before(queue, now)
            if before is None:
                return 0
            current = self._passes[queue] = _Pass(before)
        return await self._continue(queue, current)

    async def _lost_before(self, queue: WorkQueue, now: float) -> datetime | None:
        """The due instant before which a job without an outbox row has lost its message; None: unknown."""
        ready = await self._broker.ready_messages(queue.name)
        observation = await self._jobs.observe(queue, behind_seconds=BEHIND_SECONDS, timeout=CALL_SECONDS)
        if observation.is_behind or queue not in self._behind_until:
            self._behind_until[queue] = observation.now
        claimed_until = self._claimed_until.get(queue)
        if observation.claimed_until is not None and (claimed_until is None or observation.claimed_until > claimed_until):
            self._claimed_until[queue] = claimed_until = observation.claimed_until
        if ready or observation.is_behind:
            self._empty_since.pop(queue, None)
        elif now - self._empty_since.setdefault(queue, now) >= self._after:
            self._empty_since[queue] = now
            return observation.now - timedelta(seconds=self._after)
        # Jobs that became due after the relay caught up are published in order, so a claim implies all earlier claims.
        overtaken = claimed_until and claimed_until - OVERTAKEN
        return overtaken if overtaken and overtaken >= self._behind_until[queue] else None

    async def _continue(self, queue: WorkQueue, current: _Pass) -> int:
        total = 0
        for _ in range(PAGES):
            page = await self._jobs.requeue(queue, before=current.before, after=current.after, timeout=CALL_SECONDS)
            total += page.requeued
            if page.last is None:
                self._passes.pop(queue, None)
                break
            # If rows of one instant fill a page, the pass skips the rest of them.
            current.after = page.last if page.last != current.after else page.last + timedelta(microseconds=1)
        if total:
            log.warning("sweep.requeued", queue=queue.name, jobs=total, reason="their messages were lost in the broker")
        return total
