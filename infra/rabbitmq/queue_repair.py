"""Repair of queues that the broker lists but cannot use. They are recreated, and the ledger restores their messages.

RabbitMQ 3.10 loses a quorum queue's state if it is killed within a second of the declaration. The queue is still listed, but
rejects every message, and answers each consumer with INTERNAL_ERROR (found by the fault suite).
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
    """Recreates a queue after `after_seconds` of internal errors."""

    def __init__(self, url: str, topology: Topology, *, after_seconds: float):
        self._url = url
        self._topology = topology
        self._after = after_seconds
        self._since: dict[str, float] = {}

    @asynccontextmanager
    async def repairing(self, queue: str) -> AsyncIterator[None]:
        """Wraps a request to consume a queue, and counts its internal errors. Errors are raised again."""
        try:
            yield
        except ConnectionInternalError:
            since = self._since.setdefault(queue, time.monotonic())
            # Not after the reconnect: another worker may have repaired the queue by then.
            if time.monotonic() - since >= self._after:
                await self._recreate(queue, time.monotonic() - since)
            raise
        self._since.pop(queue, None)

    async def _recreate(self, queue: str, seconds: float) -> None:
        """Delete and declare the queue. The sweep publishes its messages again."""
        log.error("queue.recreated", queue=queue, reason="the broker lists it but cannot use it", for_seconds=round(seconds))
        async with await connect(self._url, "repairer") as connection:
            channel = await connection.channel()
            await channel.queue_delete(self._topology.name(queue))
            await declare(channel, self._topology)
        del self._since[queue]
