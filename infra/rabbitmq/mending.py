"""Queues that the broker has and cannot use: made anew, as the ledger holds whatever was in them.

RabbitMQ 3.10 forgets what belongs to a quorum queue when it is killed within a second of declaring it: from then on the queue
is listed and inspected, refuses every message, and answers a consumer with INTERNAL_ERROR, for good (found by the fault suite).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ConnectionInternalError

from infra.rabbitmq.topology import Topology, declare

log = structlog.get_logger()


class Mender:
    """Remembers which queues the broker cannot use, and since when; `after_seconds` of that, it makes them anew."""

    def __init__(self, topology: Topology, *, after_seconds: float):
        self._topology = topology
        self._after = after_seconds
        self._since: dict[str, float] = {}

    @contextmanager
    def watching(self, queue: str) -> Iterator[None]:
        """Around a request to consume a queue: whether the broker fails in it."""
        try:
            yield
        except ConnectionInternalError:
            self._since.setdefault(queue, time.monotonic())
            raise
        self._since.pop(queue, None)

    async def mend(self, connection: AbstractConnection) -> None:
        """Delete and declare anew what has been unusable for long. What was lost in it, the sweep publishes again."""
        now = time.monotonic()
        for queue, since in list(self._since.items()):
            if now - since >= self._after:
                log.error(
                    "queue.remade", queue=queue, reason="the broker has it and cannot use it", for_seconds=round(now - since)
                )
                channel = await connection.channel()
                await channel.queue_delete(self._topology.name(queue))
                await declare(channel, self._topology)
                await channel.close()
                del self._since[queue]
