"""The renewer: renews the lease of a long job, and writes its progress to the ledger."""

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

    def __init__(self, leases: Leases, lease_seconds: float):
        self._leases = leases
        self._seconds = lease_seconds

    async def begin(self, job: Claimed) -> bool:
        """Renew the lease of a job that has lost one before. False: the job is not ours, or Postgres does not answer."""
        try:
            ours = await self._leases.renew(job, self._seconds, Progress(), self._seconds / 4)
        except Transient as error:
            log.debug("lease.not_renewed", id=str(job.id), version=job.version, reason=str(error), effect="left to the reaper")
            return False
        if not ours:
            log.warning("lease.lost", id=str(job.id), version=job.version, effect="not begun")
        return ours

    async def keep(self, job: Claimed, progress: Progress, call: "asyncio.Task[Any]") -> None:
        """Renew until `call` is done. Cancel it when the job is not ours any more: its outcome would be refused."""
        pause = min(PROGRESS_SECONDS, self._seconds / 4)
        while True:
            await asyncio.wait({call}, timeout=pause)
            if call.done():
                return
            try:
                ours = await self._leases.renew(job, self._seconds, progress, self._seconds / 4)
            except Transient as error:
                # The lease may expire. Its fence then refuses the outcome, so going on loses nothing.
                log.debug("lease.not_renewed", id=str(job.id), version=job.version, reason=str(error))
                continue
            if not ours and not call.done():
                log.warning("lease.lost", id=str(job.id), version=job.version, effect="the work is cancelled")
                call.cancel()
                await asyncio.wait({call})
                return
