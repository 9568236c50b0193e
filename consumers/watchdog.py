"""The watchdog: rebuilds a connected consumer that receives nothing while messages wait; ends the process if that fails.

Such consumers are the most frequently reported failure of AMQP workers. No client library can detect them by itself.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consumers.process import every
from infra.logs import OutageLog

log = structlog.get_logger()


class ConsumerStuck(Exception):
    """A rebuilt connection did not resume consumption. The supervisor must restart this process."""


class Consumer(Protocol):
    def silent_seconds(self, queue: str) -> float | None: ...
    def rebuild(self) -> None: ...


@dataclass(eq=False)
class Watchdog:
    """Rebuilds the connection when a queue with messages and a free slot has delivered nothing for `seconds`.

    A busy worker, a paused queue and a connection that is being rebuilt are healthy.
    """

    consumer: Consumer
    is_idle: Mapping[str, Callable[[], bool]]
    ready: Callable[[str], Awaitable[int]]
    seconds: float
    monotonic: Callable[[], float] = time.monotonic
    _rebuilt_at: float | None = field(default=None, init=False)
    _stuck_since: dict[str, float] = field(default_factory=dict, init=False)

    async def run(self) -> None:
        await every(self.seconds / 3, self.check, OutageLog("watchdog", "stuck consumers are not detected"))

    async def check(self) -> None:
        """Check all queues once.

        Raises:
            ConsumerStuck: a queue delivers nothing long after the connection was rebuilt.
        """
        for queue, is_idle in self.is_idle.items():
            silent_seconds = self.consumer.silent_seconds(queue)
            if silent_seconds is None or not is_idle() or not await self.ready(queue):
                self._stuck_since.pop(queue, None)
                continue
            # Counted from the first check that found a message: a message that has just arrived proves nothing.
            stuck_seconds = self.monotonic() - self._stuck_since.setdefault(queue, self.monotonic())
            if silent_seconds < stuck_seconds:
                del self._stuck_since[queue]
            elif stuck_seconds >= self.seconds:
                self._rebuild(queue, stuck_seconds)

    def _rebuild(self, queue: str, stuck_seconds: float) -> None:
        if self._rebuilt_at is not None and self.monotonic() - self._rebuilt_at < 3 * self.seconds:
            raise ConsumerStuck(f"queue {queue} has messages but delivers none, although the connection was rebuilt")
        log.error("consumer.stuck", queue=queue, seconds=round(stuck_seconds, 1), effect="the connection is rebuilt")
        self._rebuilt_at = self.monotonic()
        self._stuck_since.clear()
        self.consumer.rebuild()
