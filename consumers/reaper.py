"""The reaper: records expired leases, so that their jobs are retried. Each worker process runs one."""

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
    """The part of the ledger that the reaper uses."""

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]: ...
    async def clock(self, timeout: float) -> float: ...
    def contact_seconds(self) -> float: ...


class LossRecorder(Protocol):
    """The part of the recorder that the reaper uses."""

    async def record_lost(self, job: LostLease, policy: RetryPolicy) -> None: ...


class Reaper:
    """Reaps only after one whole lease of unbroken contact with Postgres. `policies`: by logical work queue.

    After an outage of Postgres, or a step of its clock, workers can thus record their outcomes before a retry.
    """

    def __init__(
        self,
        leases: Leases,
        recorder: LossRecorder,
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
        self._offset: float | None = None  # between Postgres' clock and the local one
        self._stepped_at = float("-inf")
        self._outage = OutageLog("reaper", "jobs of lost workers are not retried")

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            await self.reap()
            await asyncio.sleep(min(_LONGEST_POLL, self._lease_seconds / 4))

    async def reap(self) -> int:
        """Record the expired leases if contact and clocks allow it; returns their number."""
        try:
            expired = await self._leases.expired_leases(BATCH, CALL_SECONDS)
            self._compare_clocks(await self._leases.clock(CALL_SECONDS))
        except Transient as error:
            self._outage.failed(error)
            return 0
        self._outage.succeeded()
        if min(self._leases.contact_seconds(), self._monotonic() - self._stepped_at) < self._lease_seconds:
            return 0
        return sum(await asyncio.gather(*map(self._record, expired)))

    def _compare_clocks(self, clock: float) -> None:
        """Detect a step of Postgres' clock: live leases may look expired after it."""
        offset = clock - self._monotonic()
        if self._offset is not None and abs(offset - self._offset) > self._lease_seconds / 4:
            self._stepped_at = self._monotonic()
            log.warning(
                "clock.stepped", seconds=round(offset - self._offset, 1), effect="reaping pauses for the length of a lease"
            )
        self._offset = offset

    async def _record(self, job: LostLease) -> bool:
        """Record one lost lease. An error of one job stops neither the others nor the reaper."""
        try:
            await self._recorder.record_lost(job, self._policies.get(job.queue.name, RetryPolicy()))
        except Exception:
            log.exception("reaper.failed", id=str(job.id), version=job.version)
            return False
        return True
