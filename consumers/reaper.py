"""The reaper: records lost leases, so that their jobs are retried. Each worker process runs one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consumers.process import every
from infra.logs import OutageLog
from jobs.model import LostLease
from jobs.retry import RetryPolicy

log = structlog.get_logger()

BATCH = 200
CALL_SECONDS = 5.0
_LONGEST_POLL = 5.0


class Leases(Protocol):
    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]: ...
    async def orphans(self, limit: int, timeout: float) -> list[LostLease]: ...
    async def clock(self, timeout: float) -> float: ...
    def contact_seconds(self) -> float: ...


@dataclass(eq=False)
class Reaper:
    """Takes back jobs under an expired lease, and jobs of a worker whose lock has been free for `grace_seconds`.

    Both need unbroken contact with Postgres: for a whole lease, or for the grace. After an outage of Postgres workers can thus
    record their outcomes, and acquire their locks again. `policies`: by logical work queue. `worker_id`: this living worker's.
    """

    leases: Leases
    record_lost: Callable[[LostLease, RetryPolicy], Awaitable[None]]
    policies: Mapping[str, RetryPolicy]
    lease_seconds: float
    grace_seconds: float
    worker_id: int | None = None
    monotonic: Callable[[], float] = time.monotonic
    _offset: float | None = field(default=None, init=False)  # between Postgres' clock and the local one
    _stepped_at: float = field(default=float("-inf"), init=False)
    _free_since: dict[int | None, float] = field(default_factory=dict, init=False)  # the locks of dead workers, by worker

    async def run(self) -> None:
        expired = OutageLog("reaper", "jobs of lost workers are not retried")
        dead = OutageLog("dead_workers", "jobs of dead workers wait for the end of their leases")
        async with asyncio.TaskGroup() as group:
            group.create_task(every(min(_LONGEST_POLL, self.lease_seconds / 4), self.reap, expired))
            group.create_task(every(self.grace_seconds / 4, self.reap_orphans, dead))

    async def reap(self) -> int:
        """Record the expired leases if contact and clocks allow it; returns their number. Raises the ledger's errors."""
        leases = await self.leases.expired_leases(BATCH, CALL_SECONDS)
        self._compare_clocks(await self.leases.clock(CALL_SECONDS))
        if min(self.leases.contact_seconds(), self.monotonic() - self._stepped_at) < self.lease_seconds:
            return 0
        return sum(await asyncio.gather(*map(self._record, leases)))

    async def reap_orphans(self) -> int:
        """Record the jobs of workers whose lock two looks found free, the grace apart; returns their number."""
        asked_at = self.monotonic()
        orphans = [job for job in await self.leases.orphans(BATCH, CALL_SECONDS) if job.worker_id != self.worker_id]
        answered_at = self.monotonic()
        self._free_since = {job.worker_id: self._free_since.get(job.worker_id, answered_at) for job in orphans}
        latest = asked_at - self.grace_seconds
        if self.leases.contact_seconds() < self.grace_seconds:
            return 0
        due = [job for job in orphans if self._free_since[job.worker_id] <= latest]
        if due:
            log.warning("worker.dead", workers=sorted({job.worker_id for job in due if job.worker_id}), jobs=len(due))
        return sum(await asyncio.gather(*map(self._record, due)))

    def _compare_clocks(self, clock: float) -> None:
        """Detect a step of Postgres' clock: live leases may look expired after it."""
        offset = clock - self.monotonic()
        if self._offset is not None and abs(offset - self._offset) > self.lease_seconds / 4:
            self._stepped_at = self.monotonic()
            log.warning(
                "clock.stepped", seconds=round(offset - self._offset, 1), effect="reaping pauses for the length of a lease"
            )
        self._offset = offset

    async def _record(self, job: LostLease) -> bool:
        """Record one lost lease. An error of one job stops neither the others nor the reaper."""
        try:
            await self.record_lost(job, self.policies.get(job.queue.name, RetryPolicy()))
        except Exception:
            log.exception("reaper.failed", id=str(job.id), version=job.version)
            return False
        return True
