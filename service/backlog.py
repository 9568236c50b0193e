"""The backlog of a client: its waiting jobs, and their limit."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field

import structlog

from infra.errors import Transient
from infra.logs import OutageLog

log = structlog.get_logger()

COUNT_SECONDS = 1.0
COUNT_SHARE = 20  # a count that took one second is repeated after 20 s
RECENT_SECONDS = 10.0  # clients without a submission for so long are not counted
STALE_SECONDS = 60.0  # the longest life of a count


class BacklogFull(Exception):
    """Too many jobs of the client are waiting; the job was not accepted."""


@dataclass(slots=True)
class _Backlog:
    """One client's waiting jobs. `uncommitted`: admitted jobs whose commit is pending."""

    count: int = 0
    admitted: int = 0
    uncommitted: int = 0
    is_full: bool = False
    submitted_at: float = 0.0
    due_at: float = 0.0
    counted_at: float = 0.0


def correct_count(count: int, counted: int, uncertain: int) -> int:
    """The number nearest to `count` that agrees with a query of `counted` jobs. It may have missed the `uncertain` jobs."""
    return min(max(count, counted), counted + uncertain)


@dataclass(eq=False)
class BacklogLimit:
    """Rejects the jobs of a client that has `high` waiting jobs, until it has `low`. `waiting` queries their number.

    Each admission adds one, and a query corrects the count every second. Scheduled jobs, callbacks, and jobs of a paused
    provider do not count. While Postgres does not answer, the last count applies for a minute.
    """

    waiting: Callable[[str, int, float], Awaitable[int]]
    _: KW_ONLY
    high: int
    low: int
    monotonic: Callable[[], float] = time.monotonic
    _backlogs: dict[str, _Backlog] = field(default_factory=dict, init=False)
    _outage: OutageLog = field(default_factory=lambda: OutageLog("backlog_count", "the last counts apply"), init=False)

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(COUNT_SECONDS)

    async def refresh(self) -> None:
        """Count the waiting jobs of each recently active client whose count is due."""
        now = self.monotonic()
        for client_id, backlog in list(self._backlogs.items()):
            if not backlog.is_full and backlog.submitted_at <= now - RECENT_SECONDS:
                del self._backlogs[client_id]
            elif backlog.due_at <= now:
                await self._count(client_id, backlog)

    async def _count(self, client_id: str, backlog: _Backlog) -> None:
        started, uncommitted, admitted = self.monotonic(), backlog.uncommitted, backlog.admitted
        counted: int | None = None
        try:
            counted = await self.waiting(client_id, self.high, COUNT_SECONDS)
            self._outage.succeeded()
        except Transient as error:
            self._outage.failed(error)
        ended = self.monotonic()
        if counted is not None:
            backlog.count = correct_count(backlog.count, counted, uncommitted + backlog.admitted - admitted)
            backlog.counted_at = ended
        elif ended - backlog.counted_at >= STALE_SECONDS and backlog.count > self.low:
            # The low mark is assumed, so that an idle client is not rejected for good.
            log.warning("backlog.stale", client=client_id, counted=backlog.count, assumed=self.low)
            backlog.count, backlog.counted_at = self.low, ended
        # Counting a large backlog is slow, so each client gets a twentieth of the time.
        backlog.due_at = ended + COUNT_SHARE * (ended - started)
        self._toggle(client_id, backlog)

    @contextmanager
    def admission(self, client_id: str) -> Iterator[None]:
        """The context of one job, from its admission until its commit. Raises `BacklogFull` if too many jobs are waiting."""
        now = self.monotonic()
        backlog = self._backlogs.setdefault(client_id, _Backlog(counted_at=now))
        backlog.submitted_at = now
        if backlog.is_full:
            raise BacklogFull(f"{backlog.count} of your jobs are waiting. New jobs are accepted again at {self.low}.")
        backlog.count += 1
        backlog.admitted += 1
        backlog.uncommitted += 1
        self._toggle(client_id, backlog)
        try:
            yield
        finally:
            backlog.uncommitted -= 1

    def _toggle(self, client_id: str, backlog: _Backlog) -> None:
        if not backlog.is_full and backlog.count >= self.high:
            backlog.is_full = True
            log.warning("backlog.full", client=client_id, waiting=backlog.count, effect="its submissions are rejected with 503")
        elif backlog.is_full and backlog.count <= self.low:
            backlog.is_full = False
            log.info("backlog.open", client=client_id, waiting=backlog.count)
