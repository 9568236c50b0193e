"""Maintenance: expired idempotency keys and jobs are deleted in small batches. Each relay runs it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog
from jobs.model import Kind

log = structlog.get_logger()

KEY_SECONDS = 24 * 3600.0  # the life of an idempotency key
DAY = 86_400.0
BATCH = 1000
CALL_SECONDS = 10.0
EVERY_SECONDS = 60.0
PAUSE_SECONDS = 0.1  # between batches, so that other statements are not delayed


class Keys(Protocol):
    """The part of the ledger that maintenance uses."""

    async def forget_keys(self, older_seconds: float, limit: int, timeout: float) -> int: ...


class Jobs(Protocol):
    """The part of retention that maintenance uses."""

    def purge_all(self, kind: Kind, seconds: float) -> AsyncIterator[int]: ...


class Maintenance:
    """Deletes idempotency keys after a day, and final jobs after the `days` of their kind. Other kinds are kept."""

    def __init__(self, keys: Keys, jobs: Jobs, days: Mapping[Kind, float]):
        self._keys = keys
        self._jobs = jobs
        self._days = days

    async def run(self) -> None:
        """Delete every minute, until cancelled."""
        outage = OutageLog("maintenance", "old jobs and keys are not deleted")
        while True:
            try:
                await self.clean()
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()
            await asyncio.sleep(EVERY_SECONDS)

    async def clean(self) -> int:
        """Delete expired keys and jobs in batches; returns their number."""
        total = count = await self._delete_keys()
        if count:
            log.info("maintenance.keys_deleted", keys=count)
        for kind, days in self._days.items():
            count = await self._purge(kind, days * DAY)
            total += count
            if count:
                log.info("maintenance.jobs_deleted", kind=kind, jobs=count, older_than_days=days)
        return total

    async def _delete_keys(self) -> int:
        total, count = 0, BATCH
        while count == BATCH:
            count = await self._keys.forget_keys(KEY_SECONDS, BATCH, CALL_SECONDS)
            total += count
        return total

    async def _purge(self, kind: Kind, seconds: float) -> int:
        total = 0
        async for count in self._jobs.purge_all(kind, seconds):
            total += count
            await asyncio.sleep(PAUSE_SECONDS)
        return total
