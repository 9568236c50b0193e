"""Queues that the broker has and cannot use: made anew, as the ledger holds whatever was in them.

RabbitMQ 3.10 forgets what belongs to a quorum queue when it is killed within a second of declaring it: from then on the queue
is listed and inspected, refuses every message, and answers a consumer with INTERNAL_ERROR, for good (found by the fault suite).
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiormq.exceptions import ConnectionInternalError

from infra.rabbitmq.connection import connect
from infra.rabbitmq.topology import Topology, declare

log = structlog.get_logger()


class QueueRepairer:
    """Remembers which queues the broker cannot use, and since when; `after_seconds` of that, it makes them anew."""

    def __init__(self, url: str, topology: Topology, *, after_seconds: float):
        self._url = url
        self._topology = topology
        self._after = after_seconds
        self._since: dict[str, float] = {}

    @asynccontextmanager
    async def repairing(self, queue: str) -> AsyncIterator[None]:
        """Around a request to consume a queue: whether the broker fails in it. Raises what is raised within."""
        try:
            yield
        except ConnectionInternalError:
            since = self._since.setdefault(queue, time.monotonic())
            # At once, and not when we are connected again: by then another worker may have done so, and the queue be well.
            if time.monotonic() - since >= self._after:
                await self._recreate(queue, time.monotonic() - since)
            raise
        self._since.pop(queue, None)

    async def _recreate(self, queue: str, seconds: float) -> None:
        """Delete and declare it anew. What was lost in it, the sweep publishes again."""
        log.error("queue.remade", queue=queue, reason="the broker has it and cannot use it", for_seconds=round(seconds))
        async with await connect(self._url, "repairer") as connection:
            channel = await connection.channel()
            await channel.queue_delete(self._topology.name(queue))
            await declare(channel, self._topology)
        del self._since[queue]
