"""The scheduler: starts the reports of due schedules. The active relay runs it, and publishes their outbox rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn, Protocol
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from consumers.process import every
from infra.logs import OutageLog
from infra.postgres.schedules import DueSchedule, Run
from service.cron import UnknownZone, UnusableCron, next_instant

log = structlog.get_logger()

POLL_SECONDS = 1.0
BATCH = 100
CALL_SECONDS = 5.0


class Store(Protocol):
    async def due(self, limit: int, timeout: float) -> list[DueSchedule]: ...
    async def start(self, runs: Sequence[Run], callback_url: str | None, timeout: float) -> set[UUID]: ...


@dataclass(eq=False)
class Scheduler:
    """Starts one report for each due schedule, however many runs it has missed, and moves it to its first future instant.

    The statement that inserts the job also moves the schedule. So a crash, a second relay and a lost answer neither lose nor
    repeat a report. `callback_url`: the default.
    """

    store: Store
    is_leading: Callable[[], bool]
    callback_url: str | None
    _unusable: set[tuple[str, str, datetime]] = field(default_factory=set, init=False)

    async def run(self) -> NoReturn:
        """Start due reports every second, until cancelled."""
        await every(POLL_SECONDS, self.start_due, OutageLog("scheduler", "recurring reports start late"))

    async def start_due(self) -> int:
        """Start a batch of due reports if this process leads; returns their number. Raises what the ledger raises."""
        if not self.is_leading():
            return 0
        due = await self.store.due(BATCH, CALL_SECONDS)
        runs = [run for schedule in due if (run := self._next(schedule)) is not None]
        if not runs:
            return 0
        started = await self.store.start(runs, self.callback_url, CALL_SECONDS)
        for run in runs:
            if run.id in started:
                log.info(
                    "report.scheduled",
                    id=str(run.id),
                    client=run.client_id,
                    schedule=run.name,
                    due_at=run.due_at,
                    next_at=run.next_at,
                )
        return len(started)

    def _next(self, due: DueSchedule) -> Run | None:
        """The run of a due schedule. None: this release of cronsim or tzdata does not accept it, which is logged once."""
        try:
            next_at = next_instant(due.cron, due.timezone, due.now)
        except (UnusableCron, UnknownZone) as error:
            found = (due.client_id, due.name, due.due_at)
            if found not in self._unusable:
                self._unusable.add(found)
                log.warning("schedule.unusable", client=due.client_id, schedule=due.name, reason=str(error))
            return None
        return Run(due.client_id, due.name, due.due_at, uuid7(), next_at)
