"""The reaper: takes jobs back whose worker let the lease run out. One in every consumer process."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from infra.outage_log import OutageLog
from jobs.model import LostLease
from jobs.retry import RetryPolicy

log = structlog.get_logger()

BATCH = 200
CALL_SECONDS = 5.0
_LONGEST_POLL = 5.0


class Leases(Protocol):
    """What the reaper needs of the ledger."""

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]: ...
    def contact_seconds(self) -> float: ...


class Records(Protocol):
    """Who commits that a lease was lost."""

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None: ...


class Reaper:
    """Reaps only after one whole lease of its own unbroken contact with Postgres; `policies` by logical work queue.

    After a database outage the workers that were cut off thus get to record what they hold before anybody else tries it again.
    """

    def __init__(
        self,
        leases: Leases,
        recorder: Records,
        policies: Mapping[str, RetryPolicy],
        *,
        lease_seconds: float,
        passing: tuple[type[Exception], ...],
    ):
        self._leases = leases
        self._recorder = recorder
        self._policies = policies
        self._lease_seconds = lease_seconds
        self._passing = passing
        self._outage = OutageLog("reaper", "jobs of lost workers are not retried")

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            await self.reap()
            await asyncio.sleep(min(_LONGEST_POLL, self._lease_seconds / 4))

    async def reap(self) -> int:
        """Take back what has expired, if this process may; returns how many."""
        try:
            expired = await self._leases.expired_leases(BATCH, CALL_SECONDS)
        except self._passing as error:
            self._outage.failed(error)
            return 0
        self._outage.succeeded()
        if not expired or self._leases.contact_seconds() < self._lease_seconds:
            return 0
        return sum(await asyncio.gather(*map(self._take_back, expired)))

    async def _take_back(self, job: LostLease) -> bool:
        """Record one lost lease. An error of one job keeps neither the others nor the reaper from their work."""
        try:
            await self._recorder.record_lost(job, self._policies.get(job.queue.name, RetryPolicy()))
        except Exception:
            log.exception("reaper.failed", id=str(job.id), version=job.version)
            return False
        return True
