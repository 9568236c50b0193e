"""The reaper: takes jobs back whose worker let the lease run out. One in every consumer process."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from infra.errors import Transient
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
    async def clock(self, timeout: float) -> float: ...
    def contact_seconds(self) -> float: ...


class Records(Protocol):
    """Who commits that a lease was lost."""

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None: ...


class Reaper:
    """Reaps only after one whole lease of its own unbroken contact with Postgres; `policies` by logical work queue.

    After a database outage, or a step of its clock, the workers thus record what they hold before it is tried again.
    """

    def __init__(
        self,
        leases: Leases,
        recorder: Records,
        policies: Mapping[str, RetryPolicy],
        *,
        lease_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._leases = leases
        self._recorder = recorder
        self._policies = policies
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._offset: float | None = None  # of Postgres' clock from ours
        self._stepped_at = float("-inf")
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
            self._compare_clocks(await self._leases.clock(CALL_SECONDS))
        except Transient as error:
            self._outage.failed(error)
            return 0
        self._outage.succeeded()
        if min(self._leases.contact_seconds(), self._monotonic() - self._stepped_at) < self._lease_seconds:
            return 0
        return sum(await asyncio.gather(*map(self._take_back, expired)))

    def _compare_clocks(self, clock: float) -> None:
        """Notice a step of Postgres' clock: every live lease may look expired after it."""
        offset = clock - self._monotonic()
        if self._offset is not None and abs(offset - self._offset) > self._lease_seconds / 4:
            self._stepped_at = self._monotonic()
            log.warning("clock.stepped", seconds=round(offset - self._offset, 1), effect="no lease is reaped for one lease")
        self._offset = offset

    async def _take_back(self, job: LostLease) -> bool:
        """Record one lost lease. An error of one job keeps neither the others nor the reaper from their work."""
        try:
            await self._recorder.record_lost(job, self._policies.get(job.queue.name, RetryPolicy()))
        except Exception:
            log.exception("reaper.failed", id=str(job.id), version=job.version)
            return False
        return True
