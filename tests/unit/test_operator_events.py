"""When a condition of the installation begins and ends, and the watches of the workers."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from consumers.gate import Gate
from consumers.operator_watch import RELAY_SECONDS, BreakerReports, RelayWatch
from consumers.slots import Slots
from infra.errors import Transient
from infra.postgres.conditions import BreakerReport, Change
from jobs.breaker import Breaker, BreakerPolicy
from jobs.outcome import Outcome, Verdict
from service.figures import DeadLetterFigures, LedgerFigures, QueueFigures
from service.operator_events import EVENTS, Condition, OperatorEvents, Thresholds, changes, conditions
from tests.support.fakes import FakeSwitch

THRESHOLDS = Thresholds(dead_letters=100, age_seconds=60)
LETTERS, AGE = Condition("dead_letters", "message"), Condition("age", "messages.sandbox.normal")
NO_ANSWER = Outcome(Verdict.DEFERRED, "no_connection", surely_not_sent=True, answered=False)


def _figures(letters: int = 0, oldest: float | None = None, paused: bool = False) -> LedgerFigures:
    now = datetime.now(UTC)
    groups = [DeadLetterFigures("message", "sandbox", reason, letters // 2) for reason in ("http_400", "http_410")]
    queues = [QueueFigures(AGE.subject, 5, oldest), QueueFigures("reports", 0, None)]
    return LedgerFigures(now, queues, groups, 0, 0, None, {"sandbox": now} if paused else {})


@pytest.mark.parametrize(
    "figures, active, held",
    [
        (_figures(letters=98), set(), set()),
        (_figures(letters=100), set(), {LETTERS}),
        (_figures(letters=50), {LETTERS}, {LETTERS}),
        (_figures(letters=48), {LETTERS}, set()),
        (_figures(oldest=59.9), set(), set()),
        (_figures(oldest=60.0), set(), {AGE}),
        (_figures(oldest=30.0), {AGE}, {AGE}),
        (_figures(oldest=29.9), {AGE}, set()),
        (_figures(oldest=None), {AGE}, set()),
        (_figures(oldest=600.0, paused=True), {AGE}, set()),
    ],
)
def test_a_condition_begins_at_its_threshold_and_ends_below_half_of_it(
    figures: LedgerFigures, active: set[tuple[str, str]], held: set[Condition]
) -> None:
    assert set(conditions(figures, [], THRESHOLDS, active)) == held


def test_each_change_has_the_type_and_the_subject_of_its_event() -> None:
    held = conditions(_figures(letters=120, oldest=90.04), ["sms"], THRESHOLDS, set())
    begun = {change.type: change.data for change in changes(held, set())}
    assert begun == {
        "dead_letters.high": {"kind": "message", "count": 120, "threshold": 100},
        "age.high": {"queue": "messages.sandbox.normal", "oldest_seconds": 90.0, "threshold_seconds": 60},
        "breaker.opened": {"provider": "sms"},
    }
    assert changes(held, set(held)) == []
    ended = {change.type: change.data for change in changes({}, [*held, ("relay", ""), ("of a later release", "")])}
    assert ended == {
        "dead_letters.normal": {"kind": "message"},
        "age.normal": {"queue": "messages.sandbox.normal"},
        "breaker.closed": {"provider": "sms"},
        "relay.back": {},
    }
    assert {types.end for types in EVENTS.values()} == set(ended)


def test_a_breaker_is_failing_until_a_call_is_answered_and_a_requested_delay_is_no_failure() -> None:
    breaker = Breaker(BreakerPolicy(failures=2))
    delayed = breaker.after(Outcome(Verdict.DEFERRED, "http_429", 429, retry_after_seconds=9), 0)
    assert delayed.until == 9 and not delayed.is_failing
    breaker = breaker.after(NO_ANSWER, 0)
    assert not breaker.is_failing
    breaker = breaker.after(NO_ANSWER, 0)
    assert breaker.is_failing
    breaker = breaker.after(NO_ANSWER, 100)  # half-open
    assert breaker.is_failing
    assert not breaker.after(Outcome(Verdict.REJECTED, "http_400", 400), 1000).is_failing


@dataclass
class BreakerScene:
    """A worker with one provider, a clock, and the reports to the ledger."""

    now: float = 0.0
    is_down: bool = False
    reports: list[BreakerReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        policy = BreakerPolicy(failures=1, open_seconds=5)
        self.gate = Gate("sms", [], Slots(1), FakeSwitch(), Breaker(policy), monotonic=lambda: self.now)
        self.watch = BreakerReports({"sms": self.gate}, self.report)

    async def report(self, found: BreakerReport, timeout: float) -> None:
        if self.is_down:
            raise Transient("no answer")
        self.reports.append(found)


async def test_a_worker_repeats_its_report_while_a_breaker_is_open_and_reports_the_end_once() -> None:
    scene = BreakerScene()
    await scene.watch.check()
    scene.gate.record_outcome(NO_ANSWER)
    for scene.now in (1.0, 3.0):
        await scene.watch.check()
    scene.now = 6.0  # half-open
    scene.gate.record_outcome(NO_ANSWER)
    scene.now = 7.0
    await scene.watch.check()
    scene.gate.record_outcome(Outcome(Verdict.ACCEPTED))
    for scene.now in (8.5, 10.5):
        await scene.watch.check()
    failing = [BreakerReport({"sms": seconds}) for seconds in (1.0, 3.0, 1.0)]
    assert scene.reports == [*failing, BreakerReport({}, {"sms": 1.5})]


async def test_a_breaker_that_closes_and_opens_between_two_reports_has_the_instant_of_its_last_opening() -> None:
    scene = BreakerScene()
    scene.gate.record_outcome(NO_ANSWER)
    await scene.watch.check()
    for scene.now, outcome in ((10.0, Outcome(Verdict.ACCEPTED)), (11.0, NO_ANSWER)):
        scene.gate.record_outcome(outcome)
    scene.now = 11.5
    await scene.watch.check()
    assert scene.reports == [BreakerReport({"sms": 0.0}), BreakerReport({"sms": 0.5})]


async def test_the_end_of_a_failure_is_reported_with_its_instant_after_an_outage_of_postgres() -> None:
    scene = BreakerScene()
    scene.gate.record_outcome(NO_ANSWER)
    await scene.watch.check()
    scene.gate.record_outcome(Outcome(Verdict.ACCEPTED))
    scene.is_down = True
    with pytest.raises(Transient):
        await scene.watch.check()
    scene.is_down, scene.now = False, 60.0
    await scene.watch.check()
    assert scene.reports[1:] == [BreakerReport({}, {"sms": 60.0})]


@dataclass
class RelayScene:
    """A relay, a clock, the begins that a watch records, and the number of times that it publishes callbacks."""

    now: float = 0.0
    is_active: bool = True
    is_down: bool = False
    begun: int = 0
    published: int = 0

    def watch(self) -> RelayWatch:
        events: Any = OperatorEvents(self, "https://operator.example", THRESHOLDS)  # type: ignore[arg-type]
        return RelayWatch(self.active_relay, events, self.publish, monotonic=lambda: self.now)

    async def active_relay(self, timeout: float) -> bool:
        await asyncio.sleep(0)
        if self.is_down:
            raise Transient("no answer")
        return self.is_active

    async def change(self, changed: list[Change], url: str, timeout: float) -> list[UUID]:
        assert [change.type for change in changed] == ["relay.lost"]
        self.begun += 1
        return []  # another worker has recorded it

    async def publish(self) -> None:
        assert self.begun > self.published
        self.published += 1


async def test_a_lost_relay_is_recorded_after_a_while_and_its_callback_is_published_until_a_relay_is_back() -> None:
    scene = RelayScene()
    watch = scene.watch()
    await watch.check()
    scene.is_active = False
    for scene.now, expected in ((RELAY_SECONDS - 0.1, 0), (RELAY_SECONDS, 1), (RELAY_SECONDS + 2, 2)):
        await watch.check()
        assert scene.published == expected
    scene.is_active = True
    await watch.check()
    assert scene.published == 2


async def test_an_outage_of_postgres_is_no_lost_relay() -> None:
    scene = RelayScene()
    watch = scene.watch()
    await watch.check()
    scene.is_down, scene.now = True, 100.0
    with pytest.raises(Transient):
        await watch.check()
    scene.is_down, scene.is_active = False, False  # the relay's lock ended with the server
    for scene.now in (101.0, 101.0 + RELAY_SECONDS - 0.1):
        await watch.check()
    assert scene.published == 0
