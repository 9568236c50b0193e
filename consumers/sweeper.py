"""The sweeper: finds jobs whose messages were lost inside the broker, and has them published again (in the active relay)."""

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
# The relay is behind in a queue if a row has been due for so long: then messages are published out of their order.
BEHIND_SECONDS = 5.0
# Of jobs in one queue, one that became due so much later has been claimed: the earlier one's message is not there.
OVERTAKEN = timedelta(seconds=60)


class Jobs(Protocol):
    """What the sweeper needs of the ledger."""

    async def observe(self, queue: WorkQueue, *, behind_seconds: float, timeout: float) -> Observation: ...
    async def requeue(self, queue: WorkQueue, *, before: datetime, after: datetime | None, timeout: float) -> Page: ...


class Broker(Protocol):
    """What the sweeper needs of RabbitMQ."""

    async def ready_messages(self, queue: str) -> int: ...


@dataclass(slots=True)
class _Pass:
    """A pass over the jobs of one queue that are due before `before`; those due until `after` have been scanned."""

    before: datetime
    after: datetime | None = None


class Sweeper:
    """Sweeps each work queue every `after_seconds / 6`, a bounded number of rows at a time.

    A job that waits without an outbox row is published again when its queue has shown no ready message for `after_seconds`, or
    when jobs that became due a minute later have been claimed. While the relay is behind in a queue, and until what it
    published out of order has been claimed, nothing of that queue counts as lost.
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
        """Sweep every queue; returns how many jobs are to be published again. Raises what jobs and broker raise."""
        now = time.monotonic() if now is None else now
        return sum(await asyncio.gather(*(self._sweep(queue, now) for queue in self._queues)))

    async def _sweep(self, queue: WorkQueue, now: float) -> int:
        under_way = self._passes.get(queue)
        if under_way is None:
            before = await self._lost_before(queue, now)
            if before is None:
                return 0
            under_way = self._passes[queue] = _Pass(before)
        return await self._continue(queue, under_way)

    async def _lost_before(self, queue: WorkQueue, now: float) -> datetime | None:
        """The instant before which a job of this queue that is due and has no row has lost its message; None: unknown."""
        ready = await self._broker.ready_messages(queue.name)
        seen = await self._jobs.observe(queue, behind_seconds=BEHIND_SECONDS, timeout=CALL_SECONDS)
        if seen.is_behind or queue not in self._behind_until:
            self._behind_until[queue] = seen.now
        known = self._claimed_until.get(queue)
        if seen.claimed_until is not None and (known is None or seen.claimed_until > known):
            self._claimed_until[queue] = known = seen.claimed_until
        if ready or seen.is_behind:
            self._empty_since.pop(queue, None)
        elif now - self._empty_since.setdefault(queue, now) >= self._after:
            self._empty_since[queue] = now
            return seen.now - timedelta(seconds=self._after)
        # What became due after the relay caught up was published in order: once it is claimed, so was all before it.
        overtaken = known and known - OVERTAKEN
        return overtaken if overtaken and overtaken >= self._behind_until[queue] else None

    async def _continue(self, queue: WorkQueue, under_way: _Pass) -> int:
        total = 0
        for _ in range(PAGES):
            page = await self._jobs.requeue(queue, before=under_way.before, after=under_way.after, timeout=CALL_SECONDS)
            total += page.requeued
            if page.last is None:
                self._passes.pop(queue, None)
                break
            # Rows of one instant that fill a page are passed over together.
            under_way.after = page.last if page.last != under_way.after else page.last + timedelta(microseconds=1)
        if total:
            log.warning("sweep.requeued", queue=queue.name, jobs=total, reason="their messages were lost in the broker")
        return total
