"""Removes stale copies from the dead queues: their jobs were requeued, discarded or sent since. Each relay runs it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog
from jobs.model import DEAD_QUEUES, Kind
from service.dead_letters import Tidier

log = structlog.get_logger()


class DeadWatch:
    """Compares queue and ledger every `every_seconds`. A dead queue with more messages than dead jobs has stale copies."""

    def __init__(
        self,
        tidier: Tidier,
        ready: Callable[[str], Awaitable[int]],
        dead: Callable[[Kind], Awaitable[int]],
        *,
        every_seconds: float,
    ):
        self._tidier = tidier
        self._ready = ready
        self._dead = dead
        self._every = every_seconds
        self._undecodable: dict[Kind, int] = {}  # these stay, and do not count as stale

    async def run(self) -> None:
        """Check the queues until cancelled."""
        outage = OutageLog("dead_queues", "stale copies stay in the dead queues")
        while True:
            await asyncio.sleep(self._every)
            try:
                for kind in Kind:
                    await self.check(kind)
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()

    async def check(self, kind: Kind) -> None:
        """Tidy this kind's dead queue if it has stale copies."""
        queue = DEAD_QUEUES[kind]
        ready = await self._ready(queue)
        if ready <= await self._dead(kind) + self._undecodable.get(kind, 0):
            return
        results = await self._tidier.tidy([kind])
        if results is not None:
            result = results[queue]
            self._undecodable[kind] = len(result.undecodable)
            if result.acknowledged:
                log.info("dead_queue.tidied", queue=queue, removed=result.acknowledged, kept=result.kept)
