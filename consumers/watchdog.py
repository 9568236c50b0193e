"""The watchdog: a consumer that looks alive and gets nothing while messages wait is made anew; else the process ends.

That is the most reported failure of systems like ours, and no client library can see it from inside.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog

log = structlog.get_logger()


class Stuck(Exception):
    """Consuming does not come back although the connection was made anew; the supervisor shall start this process anew."""


class Consumer(Protocol):
    """What the watchdog needs of the consumer."""

    def quiet_seconds(self, queue: str) -> float | None: ...
    def rebuild(self) -> None: ...


class Watchdog:
    """Bites when a queue that is consumed, with a slot free, has given nothing for `seconds` although it holds messages.

    A busy worker, a paused queue and a connection that is being rebuilt are healthy.
    """

    def __init__(
        self,
        consumer: Consumer,
        idle: Mapping[str, Callable[[], bool]],
        ready: Callable[[str], Awaitable[int]],
        *,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._consumer = consumer
        self._idle = idle
        self._ready = ready
        self._seconds = seconds
        self._monotonic = monotonic
        self._rebuilt_at: float | None = None
        self._hungry_since: dict[str, float] = {}

    async def run(self) -> None:
        """Look until cancelled.

        Raises:
            Stuck: see there.
        """
        outage = OutageLog("watchdog", "a stuck consumer is not noticed")
        while True:
            await asyncio.sleep(self._seconds / 3)
            try:
                await self.check()
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()

    async def check(self) -> None:
        """One look at all queues.

        Raises:
            Stuck: a queue is still silent long after the connection was made anew.
        """
        for queue, idle in self._idle.items():
            quiet = self._consumer.quiet_seconds(queue)
            if quiet is None or not idle() or not await self._ready(queue):
                self._hungry_since.pop(queue, None)
                continue
            # From the first time that messages were seen waiting: one that has come this moment is no sign.
            hungry = self._monotonic() - self._hungry_since.setdefault(queue, self._monotonic())
            if quiet < hungry:
                del self._hungry_since[queue]
            elif hungry >= self._seconds:
                self._bite(queue, hungry)

    def _bite(self, queue: str, hungry: float) -> None:
        if self._rebuilt_at is not None and self._monotonic() - self._rebuilt_at < 3 * self._seconds:
            raise Stuck(f"queue {queue} has messages and gives none, although the connection was made anew")
        log.error("consumer.stuck", queue=queue, seconds=round(hungry, 1), effect="the connection is made anew")
        self._rebuilt_at = self._monotonic()
        self._hungry_since.clear()
        self._consumer.rebuild()
