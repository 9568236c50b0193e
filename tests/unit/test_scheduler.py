"""The scheduler: one report for each due schedule, whatever it missed; and only in the active relay."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from consumers.scheduler import Scheduler
from infra.errors import Transient
from infra.postgres.schedules import DueSchedule, Run

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
URL = "https://example.com/hooks"


def due(name: str, cron: str = "0 6 * * *", late: timedelta = timedelta(hours=1), timezone: str = "UTC") -> DueSchedule:
    return DueSchedule("shop", name, cron, timezone, NOW - late, NOW)


@dataclass
class Store:
    """Due schedules, and the runs that were started. `others`: names that another relay started first."""

    schedules: list[DueSchedule]
    others: set[str] = field(default_factory=set)
    runs: list[Run] = field(default_factory=list)
    urls: list[str | None] = field(default_factory=list)

    async def due(self, limit: int, timeout: float) -> list[DueSchedule]:
        return self.schedules[:limit]

    async def start(self, runs: Sequence[Run], callback_url: str | None, timeout: float) -> set[UUID]:
        self.urls.append(callback_url)
        self.runs += runs
        return {run.id for run in runs if run.name not in self.others}


async def test_a_schedule_that_missed_days_starts_one_report_and_moves_into_the_future() -> None:
    store = Store([due("nightly", late=timedelta(days=5)), due("often", "* * * * *", timedelta(days=5))])
    assert await Scheduler(store, lambda: True, URL).start_due() == 2
    assert {run.name: run.next_at for run in store.runs} == {
        "nightly": datetime(2026, 3, 2, 6, tzinfo=UTC),
        "often": datetime(2026, 3, 1, 12, 1, tzinfo=UTC),
    }
    assert [run.due_at for run in store.runs] == [NOW - timedelta(days=5)] * 2
    assert store.urls == [URL] and len({run.id for run in store.runs}) == 2


async def test_a_standby_reads_nothing() -> None:
    store = Store([due("nightly")])
    assert await Scheduler(store, lambda: False, URL).start_due() == 0
    assert store.runs == []


async def test_a_report_is_logged_by_the_relay_that_started_it() -> None:
    with capture_logs() as lines:
        assert await Scheduler(Store([due("mine"), due("taken")], others={"taken"}), lambda: True, None).start_due() == 1
    (line,) = [line for line in lines if line["event"] == "report.scheduled"]
    assert (line["client"], line["schedule"], line["log_level"]) == ("shop", "mine", "info")
    assert line["id"]


@pytest.mark.parametrize(("cron", "timezone"), [("0 0 30 2 *", "UTC"), ("0 6 * * *", "Mars/Olympus")])
async def test_a_schedule_that_cannot_be_computed_delays_no_other_and_is_logged_once(cron: str, timezone: str) -> None:
    store = Store([due("broken", cron, timezone=timezone), due("nightly")])
    scheduler = Scheduler(store, lambda: True, URL)
    with capture_logs() as lines:
        for _ in range(3):
            await scheduler.start_due()
    assert {run.name for run in store.runs} == {"nightly"}
    assert [line["schedule"] for line in lines if line["event"] == "schedule.unusable"] == ["broken"]


async def test_nothing_due_writes_nothing() -> None:
    store = Store([])
    assert await Scheduler(store, lambda: True, URL).start_due() == 0
    assert store.urls == []


async def test_an_outage_of_the_ledger_reaches_the_loop() -> None:
    class Down(Store):
        async def due(self, limit: int, timeout: float) -> list[DueSchedule]:
            raise Transient("down")

    with pytest.raises(Transient):
        await Scheduler(Down([]), lambda: True, URL).start_due()
