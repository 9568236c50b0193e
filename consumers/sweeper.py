"""The sweeper: notices that messages were lost inside the broker, and has their jobs published again (in the active relay)."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from infra.postgres.sweep import BATCH
from jobs.model import WorkQueue

log = structlog.get_logger()

CALL_SECONDS = 10.0
# Of jobs in one queue, one that became due so much later has been claimed: the earlier one's message is not there.
OVERTAKEN = timedelta(seconds=60)


class Jobs(Protocol):
    """What the sweeper needs of the ledger."""

    async def requeue(self, queue: WorkQueue, *, older_seconds: float, before: datetime | None, timeout: float) -> int: ...
    async def claimed_until(self, queue: WorkQueue, timeout: float) -> datetime | None: ...


class Broker(Protocol):
    """What the sweeper needs of RabbitMQ."""

    async def ready_messages(self, queue: str) -> int: ...


class Sweeper:
    """Looks at each work queue every `after_seconds / 6`.

    A job that waits without an outbox row is published again when its queue has shown no ready message for `after_seconds`, or
    when jobs that became due a minute later have been claimed.
    """

    def __init__(self, jobs: Jobs, broker: Broker, queues: Sequence[WorkQueue], *, after_seconds: float):
        self._jobs = jobs
        self._broker = broker
        self._queues = queues
        self._after = after_seconds
        self._empty_since: dict[WorkQueue, float] = {}
        self._claimed_until: dict[WorkQueue, datetime] = {}
        self._next_look = 0.0

    async def look(self, now: float | None = None) -> int:
        """Look if it is time to; returns how many jobs are to be published again. Raises what jobs and broker raise."""
        now = time.monotonic() if now is None else now
        if now < self._next_look:
            return 0
        self._next_look = now + self._after / 6
        found = await asyncio.gather(*(self._look_at(queue, now) for queue in self._queues))
        return sum(found)

    async def _look_at(self, queue: WorkQueue, now: float) -> int:
        if await self._broker.ready_messages(queue.name):
            self._empty_since.pop(queue, None)
        elif now - self._empty_since.setdefault(queue, now) >= self._after:
            self._empty_since[queue] = now
            return await self._requeue(queue, self._after, None)
        claimed = await self._jobs.claimed_until(queue, CALL_SECONDS)
        known = self._claimed_until.get(queue)
        if claimed is not None and (known is None or claimed > known):
            self._claimed_until[queue] = known = claimed
        return await self._requeue(queue, 0.0, known - OVERTAKEN) if known else 0

    async def _requeue(self, queue: WorkQueue, older: float, before: datetime | None) -> int:
        total, count = 0, BATCH
        while count == BATCH:
            count = await self._jobs.requeue(queue, older_seconds=older, before=before, timeout=CALL_SECONDS)
            total += count
        if total:
            log.warning("sweep.requeued", queue=queue.name, jobs=total, reason="they waited, and their messages were not there")
        return total
