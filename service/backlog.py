"""A client's backlog: how many of its jobs wait, and when no more are accepted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from infra.errors import Transient
from infra.outage_log import OutageLog

log = structlog.get_logger()

COUNT_SECONDS = 1.0
COUNT_SHARE = 20  # a count that took a second is repeated after twenty
RECENT_SECONDS = 10.0  # clients that have submitted nothing for so long are not counted
STALE_SECONDS = 60.0  # a count that could not be repeated for so long says nothing any more


class BacklogFull(Exception):
    """Too many jobs of the client are waiting; nothing was accepted."""


@dataclass(slots=True)
class _Backlog:
    """What is known of a client's waiting jobs. `unsettled`: admitted jobs whose commit is not known yet."""

    count: int = 0
    admitted: int = 0
    unsettled: int = 0
    full: bool = False
    submitted_at: float = 0.0
    due_at: float = 0.0
    counted_at: float = 0.0


def corrected(count: int, counted: int, uncertain: int) -> int:
    """The number of waiting jobs nearest to `count` that a query allows.

    The query counted `counted` jobs. `uncertain` others were admitted around it, so it has seen some of them or none.
    """
    return min(max(count, counted), counted + uncertain)


class BacklogLimit:
    """A client whose waiting jobs come to `high` is refused more, until they are down to `low`.

    Each admission adds one, and a query corrects the number every second. Scheduled jobs, callbacks, and jobs of a paused
    provider do not count. While Postgres does not answer, the last number holds for a minute.
    """

    def __init__(
        self,
        waiting: Callable[[str, int, float], Awaitable[int]],
        *,
        high: int,
        low: int,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._waiting = waiting
        self._high = high
        self._low = low
        self._monotonic = monotonic
        self._known: dict[str, _Backlog] = {}
        self._outage = OutageLog("backlog_count", "the last known backlogs hold")

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(COUNT_SECONDS)

    async def refresh(self) -> None:
        """Count the waiting jobs of every client that has submitted some lately, and whose count is due."""
        now = self._monotonic()
        recently = now - RECENT_SECONDS
        self._known = {name: each for name, each in self._known.items() if each.full or each.submitted_at > recently}
        for client_id, backlog in list(self._known.items()):
            if backlog.due_at <= now:
                await self._count(client_id, backlog)

    async def _count(self, client_id: str, backlog: _Backlog) -> None:
        started, unsettled, admitted = self._monotonic(), backlog.unsettled, backlog.admitted
        try:
            counted = await self._waiting(client_id, self._high, COUNT_SECONDS)
        except Transient as error:
            self._outage.failed(error)
            self._forget_stale(client_id, backlog)
        else:
            self._outage.succeeded()
            backlog.count = corrected(backlog.count, counted, unsettled + backlog.admitted - admitted)
            backlog.counted_at = self._monotonic()
        # Counting takes its time where there is much to count: each client may have a twentieth of Postgres' time.
        ended = self._monotonic()
        backlog.due_at = ended + COUNT_SHARE * (ended - started)
        self._toggle(client_id, backlog)

    def _forget_stale(self, client_id: str, backlog: _Backlog) -> None:
        """Assume the low mark once a count is stale: an idle client is not refused for good, a busy one gains little."""
        now = self._monotonic()
        if now - backlog.counted_at >= STALE_SECONDS and backlog.count > self._low:
            log.warning("backlog.stale", client=client_id, counted=backlog.count, assumed=self._low)
            backlog.count, backlog.counted_at = self._low, now

    @contextmanager
    def admission(self, client_id: str) -> Iterator[None]:
        """Let a client submit one more job; at the end its commit is known.

        Raises:
            BacklogFull: too many of its jobs are waiting.
        """
        backlog = self._admit(client_id)
        backlog.unsettled += 1
        try:
            yield
        finally:
            backlog.unsettled -= 1

    def _admit(self, client_id: str) -> _Backlog:
        backlog = self._known.setdefault(client_id, _Backlog(counted_at=self._monotonic()))
        backlog.submitted_at = self._monotonic()
        if backlog.full:
            raise BacklogFull(f"{backlog.count} of your jobs are waiting. New jobs are accepted again at {self._low}.")
        backlog.count += 1
        backlog.admitted += 1
        self._toggle(client_id, backlog)
        return backlog

    def _toggle(self, client_id: str, backlog: _Backlog) -> None:
        if not backlog.full and backlog.count >= self._high:
            backlog.full = True
            log.warning("backlog.full", client=client_id, waiting=backlog.count, effect="its submissions are answered with 503")
        elif backlog.full and backlog.count <= self._low:
            backlog.full = False
            log.info("backlog.open", client=client_id, waiting=backlog.count)
