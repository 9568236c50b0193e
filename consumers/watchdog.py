"""The watchdog: rebuilds a connected consumer that receives nothing while messages wait; ends the process if that fails.

Such consumers are the most frequently reported failure of AMQP workers. No client library can detect them by itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog

log = structlog.get_logger()


class ConsumerStuck(Exception):
    """A rebuilt connection did not resume consumption. The supervisor must restart this process."""


class Consumer(Protocol):
    """The part of the consumer that the watchdog uses."""

    def silent_seconds(self, queue: str) -> float | None: ...
    def rebuild(self) -> None: ...


class Watchdog:
    """Rebuilds the connection when a queue with messages and a free slot has delivered nothing for `seconds`.

    A busy worker, a paused queue and a connection that is being rebuilt are healthy.
    """

    def __init__(
        self,
        consumer: Consumer,
        is_idle: Mapping[str, Callable[[], bool]],
        ready: Callable[[str], Awaitable[int]],
        *,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._consumer = consumer
        self._is_idle = is_idle
        self._ready = ready
        self._seconds = seconds
        self._monotonic = monotonic
        self._rebuilt_at: float | None = None
        self._stuck_since: dict[str, float] = {}

    async def run(self) -> None:
        """Check until cancelled.

        Raises:
            ConsumerStuck: a rebuilt connection did not help.
        """
        outage = OutageLog("watchdog", "stuck consumers are not detected")
        while True:
            await asyncio.sleep(self._seconds / 3)
            try:
                await self.check()
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()

    async def check(self) -> None:
        """Check all queues once.

        Raises:
            ConsumerStuck: a queue delivers nothing long after the connection was rebuilt.
        """
        for queue, is_idle in self._is_idle.items():
            silent_seconds = self._consumer.silent_seconds(queue)
            if silent_seconds is None or not is_idle() or not await self._ready(queue):
                self._stuck_since.pop(queue, None)
                continue
            # Counted from the first check that found a message: a message that has just arrived proves nothing.
            stuck_seconds = self._monotonic() - self._stuck_since.setdefault(queue, self._monotonic())
            if silent_seconds < stuck_seconds:
                del self._stuck_since[queue]
            elif stuck_seconds >= self._seconds:
                self._rebuild(queue, stuck_seconds)

    def _rebuild(self, queue: str, stuck_seconds: float) -> None:
        if self._rebuilt_at is not None and self._monotonic() - self._rebuilt_at < 3 * self._seconds:
            raise ConsumerStuck(f"queue {queue} has messages but delivers none, although the connection was rebuilt")
        log.error("consumer.stuck", queue=queue, seconds=round(stuck_seconds, 1), effect="the connection is rebuilt")
        self._rebuilt_at = self._monotonic()
        self._stuck_since.clear()
        self._consumer.rebuild()
