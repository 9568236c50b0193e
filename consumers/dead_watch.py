"""Keeps the dead queues true: copies whose jobs were requeued, discarded or sent since are taken out (in each relay)."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog
from jobs.model import DEAD_QUEUES, Kind
from service.dead_letters import Tidier

log = structlog.get_logger()


class DeadWatch:
    """Every `every_seconds`: a dead queue that holds more than the ledger calls dead has stale copies, and is tidied."""

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
        self._undecodable: dict[Kind, int] = {}  # these stay, and are no reason for another look

    async def run(self) -> None:
        """Look until cancelled."""
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
        """Tidy this kind's dead queue, if there is reason to."""
        queue = DEAD_QUEUES[kind]
        ready = await self._ready(queue)
        if ready <= await self._dead(kind) + self._undecodable.get(kind, 0):
            return
        found = await self._tidier.tidy([kind])
        if found is not None:
            self._undecodable[kind] = len(found[queue].undecodable)
            if found[queue].acknowledged:
                log.info("dead_queue.tidied", queue=queue, removed=found[queue].acknowledged, kept=found[queue].kept)
