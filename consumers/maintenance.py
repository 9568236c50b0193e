"""Housekeeping: what has served its time is deleted, a little at a time (in each relay)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog
from jobs.model import Kind

log = structlog.get_logger()

KEY_SECONDS = 24 * 3600.0  # an idempotency key is remembered for so long
DAY = 86_400.0
BATCH = 1000
CALL_SECONDS = 10.0
EVERY_SECONDS = 60.0
PAUSE_SECONDS = 0.1  # between batches, for the service's own statements


class Keys(Protocol):
    """What is needed of the ledger."""

    async def forget_keys(self, older_seconds: float, limit: int, timeout: float) -> int: ...


class Jobs(Protocol):
    """Who deletes jobs that are over."""

    def purge_all(self, kind: Kind, seconds: float) -> AsyncIterator[int]: ...


class Maintenance:
    """Forgets idempotency keys whose day is over, and jobs whose `days` are (by kind; a kind that is not named stays)."""

    def __init__(self, keys: Keys, jobs: Jobs, days: Mapping[Kind, float]):
        self._keys = keys
        self._jobs = jobs
        self._days = days

    async def run(self) -> None:
        """Clean up every minute, until cancelled."""
        outage = OutageLog("maintenance", "nothing is deleted")
        while True:
            try:
                await self.clean()
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()
            await asyncio.sleep(EVERY_SECONDS)

    async def clean(self) -> int:
        """Delete all that is due, in batches; returns how much."""
        total = count = await self._forget()
        if count:
            log.info("housekeeping.keys_forgotten", keys=count)
        for kind, days in self._days.items():
            count = await self._purge(kind, days * DAY)
            total += count
            if count:
                log.info("housekeeping.purged", kind=kind, jobs=count, older_than_days=days)
        return total

    async def _forget(self) -> int:
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
