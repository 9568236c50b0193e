"""The renewer: keeps the lease of a job that runs for long, and tells the ledger how far the job is."""

import asyncio
from typing import Any, Protocol

import structlog

from infra.errors import Transient
from jobs.model import Claimed, Progress

log = structlog.get_logger()

PROGRESS_SECONDS = 1.0


class Leases(Protocol):
    """What the renewer needs of the ledger."""

    async def renew(self, job: Claimed, lease_seconds: float, progress: Progress, timeout: float) -> bool: ...


class Renewer:
    """Renews every second, or four times in a lease where that is more often."""

    def __init__(self, leases: Leases):
        self._leases = leases

    async def begin(self, job: Claimed, lease_seconds: float) -> bool:
        """Say that the work on a job begins that has lost a lease before, under a whole lease; False: do not begin."""
        try:
            ours = await self._leases.renew(job, lease_seconds, Progress(), lease_seconds / 4)
        except Transient as error:
            log.debug("lease.not_renewed", id=str(job.id), version=job.version, reason=str(error), effect="left to the reaper")
            return False
        if not ours:
            log.warning("lease.lost", id=str(job.id), version=job.version, effect="not begun")
        return ours

    async def keep(self, job: Claimed, progress: Progress, work: "asyncio.Task[Any]", lease_seconds: float) -> None:
        """Renew until `work` is done; cancel it if the job has been taken from us, as whatever it came to would be refused."""
        pause = min(PROGRESS_SECONDS, lease_seconds / 4)
        while True:
            await asyncio.wait({work}, timeout=pause)
            if work.done():
                return
            try:
                ours = await self._leases.renew(job, lease_seconds, progress, lease_seconds / 4)
            except Transient as error:
                # The lease may run out; then its fence refuses what the work comes to. Nothing is lost by going on.
                log.debug("lease.not_renewed", id=str(job.id), version=job.version, reason=str(error))
                continue
            if not ours and not work.done():
                log.warning("lease.lost", id=str(job.id), version=job.version, effect="the work is cancelled")
                work.cancel()
                await asyncio.wait({work})
                return
