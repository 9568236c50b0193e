"""Housekeeping: what has served its time is deleted, a little at a time (in each relay)."""

import asyncio
from typing import Protocol

import structlog

log = structlog.get_logger()

KEY_SECONDS = 24 * 3600.0  # an idempotency key is remembered for so long
BATCH = 1000
CALL_SECONDS = 10.0
EVERY_SECONDS = 60.0


class Keys(Protocol):
    """What is needed of the ledger."""

    async def forget_keys(self, older_seconds: float, limit: int, timeout: float) -> int: ...


class Housekeeper:
    """Forgets idempotency keys whose day is over."""

    def __init__(self, keys: Keys, *, passing: tuple[type[Exception], ...]):
        self._keys = keys
        self._passing = passing

    async def run(self) -> None:
        """Clean up every minute, until cancelled."""
        while True:
            try:
                await self.clean()
            except self._passing as error:
                log.debug("housekeeping.waiting", reason=str(error))
            await asyncio.sleep(EVERY_SECONDS)

    async def clean(self) -> int:
        """Delete all that is due, in batches; returns how much."""
        total, count = 0, BATCH
        while count == BATCH:
            count = await self._keys.forget_keys(KEY_SECONDS, BATCH, CALL_SECONDS)
            total += count
        if total:
            log.info("housekeeping.keys_forgotten", keys=total)
        return total
