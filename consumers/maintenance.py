"""Maintenance by each relay: expired keys, old jobs and stale copies in the dead queues are removed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from consumers.process import every
from infra.logs import OutageLog
from infra.postgres.ledger import Ledger
from infra.postgres.retention import Retention
from jobs.model import DEAD_QUEUES, Kind
from service.dead_letters import Tidier

log = structlog.get_logger()

DAY = 86_400.0
KEY_SECONDS = DAY  # the life of an idempotency key
BATCH = 1000
CALL_SECONDS = 10.0
EVERY_SECONDS = 60.0
PAUSE_SECONDS = 0.1  # between batches, so that other statements are not delayed


async def maintain(ledger: Ledger, retention: Retention, days: Mapping[Kind, float]) -> None:
    """Clean every minute, until cancelled."""
    outage = OutageLog("maintenance", "old jobs and keys are not deleted")
    await every(EVERY_SECONDS, lambda: clean(ledger, retention, days), outage)


async def clean(ledger: Ledger, retention: Retention, days: Mapping[Kind, float]) -> int:
    """Delete idempotency keys after a day, and final jobs after the `days` of their kind; returns their number.

    Jobs of other kinds are kept. The partitions of ended reports are deleted at once: nothing reads them any more.
    """
    await retention.forget_runs(CALL_SECONDS)
    total = count = await _delete_keys(ledger)
    if count:
        log.info("maintenance.keys_deleted", keys=count)
    for kind, kind_days in days.items():
        count = 0
        async for batch in retention.purge_all(kind, kind_days * DAY):
            count += batch
            await asyncio.sleep(PAUSE_SECONDS)
        total += count
        if count:
            log.info("maintenance.jobs_deleted", kind=kind, jobs=count, older_than_days=kind_days)
    return total


async def _delete_keys(ledger: Ledger) -> int:
    total, count = 0, BATCH
    while count == BATCH:
        count = await ledger.forget_keys(KEY_SECONDS, BATCH, CALL_SECONDS)
        total += count
    return total


@dataclass(eq=False)
class DeadWatch:
    """Compares each dead queue with the ledger. A queue with more messages than dead jobs has stale copies.

    The jobs of stale copies were requeued, discarded or sent since.
    """

    tidier: Tidier
    ready: Callable[[str], Awaitable[int]]
    dead: Callable[[Kind, float], Awaitable[int]]
    _undecodable: dict[Kind, int] = field(default_factory=dict, init=False)  # these stay, and do not count as stale

    async def run(self, seconds: float) -> None:
        """Tidy the queues every `seconds`, until cancelled."""
        await every(seconds, self.tidy, OutageLog("dead_queues", "stale copies stay in the dead queues"))

    async def tidy(self) -> None:
        """Tidy the dead queues that have stale copies."""
        for kind, queue in DEAD_QUEUES.items():
            ready = await self.ready(queue)
            if ready <= await self.dead(kind, CALL_SECONDS) + self._undecodable.get(kind, 0):
                continue
            results = await self.tidier.tidy([kind])
            if results is not None:
                result = results[queue]
                self._undecodable[kind] = len(result.undecodable)
                if result.acknowledged:
                    log.info("dead_queue.tidied", queue=queue, removed=result.acknowledged, kept=result.kept)
