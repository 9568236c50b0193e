"""The renewer: renews the lease of a long job, and writes its progress to the ledger."""

import asyncio
from typing import Protocol

import structlog

from infra.errors import Transient
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome

log = structlog.get_logger()

PROGRESS_SECONDS = 1.0


class Leases(Protocol):
    """The part of the ledger that the renewer uses."""

    async def renew(self, job: Claimed, lease_seconds: float, progress: Progress, timeout: float) -> bool: ...


class Renewer:
    """Renews every second, at least four times in a lease."""

    def __init__(self, leases: Leases, lease_seconds: float):
        self._leases = leases
        self._seconds = lease_seconds

    async def begin(self, job: Claimed) -> bool:
        """Renew the lease of a job that has lost one before. False: the lease is lost, or Postgres does not answer."""
        try:
            renewed = await self._leases.renew(job, self._seconds, Progress(), self._seconds / 4)
        except Transient as error:
            log.debug(
                "lease.not_renewed", id=str(job.id), version=job.version, reason=str(error), effect="the reaper retries the job"
            )
            return False
        if not renewed:
            log.warning("lease.lost", id=str(job.id), version=job.version, effect="the attempt does not begin")
        return renewed

    async def keep(self, job: Claimed, progress: Progress, call: "asyncio.Task[Outcome]") -> None:
        """Renew until `call` is done. Cancel it when the lease is lost: its outcome would be rejected."""
        pause = min(PROGRESS_SECONDS, self._seconds / 4)
        while True:
            await asyncio.wait({call}, timeout=pause)
            if call.done():
                return
            try:
                renewed = await self._leases.renew(job, self._seconds, progress, self._seconds / 4)
            except Transient as error:
                # The lease may expire. The fence then rejects the outcome, so the call may continue.
                log.debug("lease.not_renewed", id=str(job.id), version=job.version, reason=str(error))
                continue
            if not renewed and not call.done():
                log.warning("lease.lost", id=str(job.id), version=job.version, effect="the attempt is cancelled")
                call.cancel()
                await asyncio.wait({call})
                return
