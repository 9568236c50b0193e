"""Live figures: counts of a process, and one sample for all its viewers."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
import pytest
from structlog.testing import capture_logs

from infra.errors import Transient
from infra.redis.figures import StoredFigures
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, REPORTS
from service.activity import TIME_BOUNDS, Activity, ActivityReports, quantile
from service.figures import (
    RATE_SECONDS,
    RATES,
    Figures,
    FiguresFeed,
    FiguresReader,
    LedgerFigures,
    LedgerSampler,
    publish_samples,
)
from tests.support.factories import SANDBOX
from tests.support.waiting import until

NOON = 1_796_000_400  # seconds; a multiple of the interval
AT = datetime.fromtimestamp(NOON, UTC)


def sample(processing: int = 0) -> LedgerFigures:
    return LedgerFigures(AT, [], [], processing, 0, None, {"sandbox": AT})


@dataclass
class Redis:
    """Keeps what is written; `down` makes every call fail."""

    now: float = NOON + 5.0
    counts: dict[int, dict[str, int]] = field(default_factory=dict)
    states: list[tuple[int, bytes]] = field(default_factory=list)
    ledger: bytes | None = None
    down: bool = False
    read_intervals: list[int] = field(default_factory=list)
    life_seconds: float = 0.0
    left: list[str] = field(default_factory=list)

    def _check(self) -> None:
        if self.down:
            raise Transient("no answer")

    async def report(self, process_id: str, state: bytes, counts: Mapping[str, int]) -> None:
        self._check()
        self.states.append((int(self.now * 1000), state))
        present = self.counts.setdefault(int(self.now) // RATE_SECONDS * RATE_SECONDS, {})
        for name, count in counts.items():
            present[name] = present.get(name, 0) + count

    async def leave(self, process_id: str) -> None:
        self.left.append(process_id)
        self._check()

    async def write_ledger(self, sample: bytes, seconds: float) -> None:
        self._check()
        self.ledger, self.life_seconds = sample, seconds

    async def read(self, intervals: int) -> StoredFigures:
        self._check()
        self.read_intervals.append(intervals)
        newest = int(self.now) // RATE_SECONDS * RATE_SECONDS
        starts = range(newest - (intervals - 1) * RATE_SECONDS, newest + 1, RATE_SECONDS)
        return StoredFigures(int(self.now * 1000), self.states, self.ledger, {at: self.counts.get(at, {}) for at in starts})


@dataclass
class Ledger:
    """Answers samples, each of which takes `seconds` of the clock."""

    down: bool = False
    seconds: float = 0.0
    samples: int = 0
    now: float = 1000.0

    async def take(self, timeout: float) -> LedgerFigures:
        self.samples += 1
        self.now += self.seconds
        if self.down:
            raise Transient("connection refused")
        return sample(self.samples)

    def monotonic(self) -> float:
        return self.now

    def sampler(self) -> LedgerSampler:
        return LedgerSampler(self.take, self.monotonic)


def reader(redis: Redis, ledger: Ledger, rabbitmq: str | None = None) -> FiguresReader:
    async def check() -> str | None:
        return rabbitmq

    return FiguresReader(redis, ledger.sampler(), {"rabbitmq": check}, ledger.monotonic)


def test_an_activity_counts_the_work_of_clients_and_starts_again() -> None:
    activity = Activity()
    activity.accepted(SANDBOX)
    activity.recorded(SANDBOX, Status.SENT, None, 0.004)
    activity.recorded(REPORTS, Status.COMPLETED, None, 1e9)
    activity.recorded(SANDBOX, Status.RETRYING, None)
    activity.recorded(SANDBOX, Status.UNKNOWN, None)
    activity.recorded(CALLBACKS, Status.SENT, None, 1.0)
    activity.recorded(SANDBOX, Status.QUEUED, None)
    times = {"time0": 1, f"time{len(TIME_BOUNDS)}": 1}
    assert activity.take() == {"accepted": 1, "sent": 2, "failed": 1, "retried": 1, **times}
    assert activity.take() == {}


@pytest.mark.parametrize("seconds", [0.004, 0.02, 0.7, 30.0, 1800.0])
def test_a_quantile_lies_within_the_bounds_of_its_time(seconds: float) -> None:
    activity = Activity()
    for _ in range(100):
        activity.recorded(SANDBOX, Status.SENT, None, seconds)
    counts = {int(name.removeprefix("time")): n for name, n in activity.take().items() if name.startswith("time")}
    p50, p99 = quantile(counts, 0.5), quantile(counts, 0.99)
    assert p50 is not None and p99 is not None
    assert (seconds / 1.5 if seconds > 0.005 else 0.0) <= p50 <= p99 <= max(0.005, seconds * 1.5)


def test_quantiles_tell_most_times_from_the_slowest() -> None:
    assert quantile({}, 0.5) is None
    p50, p99 = quantile({0: 98, 20: 2}, 0.5), quantile({0: 98, 20: 2}, 0.99)
    assert p50 is not None and p99 is not None
    assert p50 <= TIME_BOUNDS[0] and TIME_BOUNDS[19] <= p99 <= TIME_BOUNDS[20]


async def test_a_process_reports_its_counts_and_state_and_leaves() -> None:
    redis, activity = Redis(), Activity()
    activity.accepted(SANDBOX)
    reports = ActivityReports(redis, activity, "worker", lambda: 3, lambda: {"sandbox": "open"})
    task = asyncio.create_task(reports.run())
    await until(lambda: redis.states, bool)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (process,) = (await reader(redis, Ledger()).read()).processes
    assert (process.role, process.in_flight, process.breakers) == ("worker", 3, {"sandbox": "open"})
    assert redis.left == [reports.id]
    assert redis.counts == {NOON: {"accepted": 1}}


async def test_counts_of_an_outage_are_dropped_and_it_is_logged_once() -> None:
    redis, activity = Redis(down=True), Activity()
    reports = ActivityReports(redis, activity, "worker")
    with capture_logs() as lines:
        activity.accepted(SANDBOX)
        await reports.report()
        reports._outage._after_seconds = 0.0
        await reports.report()
        await reports.report()
        redis.down = False
        activity.accepted(SANDBOX)
        await reports.report()
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == ["figures.down", "figures.up"]
    assert redis.counts == {NOON: {"accepted": 1}}


async def test_rates_are_of_the_last_hour_and_end_with_the_interval_in_progress() -> None:
    redis = Redis(counts={NOON - 10: {"accepted": 50, "sent": 20}, NOON: {"accepted": 50, "time3": 5}})
    rates = (await reader(redis, Ledger()).read()).rates
    assert len(rates) == RATES
    assert [(each.at.timestamp(), each.accepted, each.sent) for each in rates[-2:]] == [(NOON - 10, 5, 2), (NOON, 10, 0)]
    assert rates[-1].time_to_sent_p50_seconds is not None and rates[-2].time_to_sent_p50_seconds is None
    redis.now = NOON + 3
    assert (await reader(redis, Ledger()).read()).rates[-1].at.timestamp() == NOON - 10


async def test_a_later_read_transfers_the_latest_intervals_only() -> None:
    redis, ledger = Redis(counts={NOON: {"accepted": 50}}), Ledger()
    figures = reader(redis, ledger)
    await figures.read()
    redis.now, ledger.now = redis.now + 2, ledger.now + 2
    redis.counts[NOON]["accepted"] = 70
    assert (await figures.read()).rates[-1].accepted == 10
    redis.now, ledger.now = redis.now + 25, ledger.now + 25
    rates = (await figures.read()).rates
    assert redis.read_intervals == [361, 3, 5]
    assert len(rates) == RATES and rates[-3].accepted == 7  # the interval in progress is too young
    redis.now, ledger.now = redis.now + 7200, ledger.now + 7200
    assert len((await figures.read()).rates) == RATES


async def test_the_relays_sample_spares_the_ledger() -> None:
    redis, ledger = Redis(ledger=orjson.dumps(sample(7))), Ledger()
    assert (await reader(redis, ledger).read()).ledger == sample(7)
    assert ledger.samples == 0


@pytest.mark.parametrize("value", [None, b"{}", b"no JSON"])
async def test_without_a_readable_sample_of_the_relay_the_process_samples_the_ledger(value: bytes | None) -> None:
    figures = await reader(Redis(ledger=value, states=[(1, b"no JSON"), (1, b"{}")]), Ledger()).read()
    assert figures.ledger == sample(1) and figures.processes == []


async def test_figures_name_what_is_down() -> None:
    redis, ledger = Redis(down=True), Ledger(down=True)
    figures = reader(redis, ledger, rabbitmq="not connected")
    read = await figures.read()
    assert read.down == {"rabbitmq": "not connected", "redis": "no answer", "postgres": "connection refused"}
    assert (read.ledger, read.rates, read.processes) == (None, [], [])
    redis.down = ledger.down = False
    assert len((await figures.read()).rates) == RATES


async def test_a_slow_sample_is_repeated_after_twenty_times_its_duration() -> None:
    ledger = Ledger(seconds=1.0)
    sampler = ledger.sampler()
    await sampler.sample()
    ledger.now += 19.9
    assert (await sampler.sample()).processing == 1
    ledger.now += 0.2
    assert (await sampler.sample()).processing == 2
    ledger.seconds = 0.0
    ledger.now += 20.1
    await sampler.sample()
    ledger.now += 2.1
    assert (await sampler.sample()).processing == 4


async def test_concurrent_callers_share_a_sample() -> None:
    """The relay's figures and its operator events have one sampler."""
    ledger, go = Ledger(), asyncio.Event()

    async def take(timeout: float) -> LedgerFigures:
        await go.wait()
        return await ledger.take(timeout)

    sampler = LedgerSampler(take, ledger.monotonic)
    callers = [asyncio.create_task(sampler.sample()) for _ in range(3)]
    await asyncio.wait(callers, timeout=0)  # each has begun
    go.set()
    samples = await asyncio.gather(*callers)
    assert ledger.samples == 1 and all(each is sampler.latest for each in samples)


async def test_a_failed_sample_is_forgotten() -> None:
    ledger = Ledger()
    sampler = ledger.sampler()
    await sampler.sample()
    ledger.down, ledger.now = True, ledger.now + 3
    with pytest.raises(Transient):
        await sampler.sample()
    assert sampler.latest is None


async def test_only_an_active_relay_samples_the_ledger_for_all() -> None:
    redis, ledger, leading = Redis(), Ledger(seconds=1.0), False
    observed: list[LedgerFigures | None] = []
    standby = asyncio.create_task(publish_samples(ledger.sampler(), redis, lambda: leading, observed.append))
    await until(lambda: observed, bool)
    standby.cancel()
    assert (observed, redis.ledger, ledger.samples) == ([None], None, 0)
    leading = True
    active = asyncio.create_task(publish_samples(ledger.sampler(), redis, lambda: leading, observed.append))
    await until(lambda: redis.ledger, bool)
    active.cancel()
    assert observed[1:] == [sample(1)] and redis.life_seconds == 60


@dataclass
class Reading:
    """A reader whose readings wait for `go`."""

    now: float = 0.0
    count: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> Figures:
        self.count += 1
        await self.go.wait()
        return Figures(AT, sample(self.count))


def feed(reading: Reading) -> FiguresFeed:
    return FiguresFeed(reading, monotonic=lambda: reading.now)  # type: ignore[arg-type]


async def test_ten_viewers_cost_one_reading_an_interval() -> None:
    reading = Reading()
    figures = feed(reading)
    viewers = [asyncio.create_task(figures.read()) for _ in range(10)]
    await until(lambda: reading.count, bool)
    viewers[0].cancel()  # one leaves, the others get the sample
    reading.go.set()
    samples = await asyncio.gather(*viewers[1:])
    assert samples == [figures.latest] * 9 and reading.count == 1
    reading.now = 1.9
    assert await figures.read() is samples[0]
    reading.now = 2.0
    assert (await figures.read()) is not samples[0] and reading.count == 2


async def test_a_watch_yields_each_sample_once_and_reads_nothing_after_its_end() -> None:
    reading = Reading()
    reading.go.set()
    figures = FiguresFeed(reading, interval_seconds=0.05)  # type: ignore[arg-type]
    watching = figures.watch()
    seen = [await anext(watching) for _ in range(3)]
    assert len({id(each) for each in seen}) == 3 and reading.count == 3
    await watching.aclose()  # type: ignore[attr-defined]
    assert figures._sampling is None
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert reading.count == 3


async def test_an_error_of_one_reading_reaches_its_callers_and_no_later_one() -> None:
    @dataclass
    class Failing:
        errors: list[Exception]

        async def read(self) -> Figures:
            if self.errors:
                raise self.errors.pop()
            return Figures(AT, None)

    figures = FiguresFeed(Failing([ValueError("a bug")]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a bug"):
        await figures.read()
    assert (await figures.read()).at == AT
