"""Figures: the live state of a whole installation, for the console, `posthaste top` and the relay's metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from infra.errors import Transient
from infra.logs import OutageLog
from infra.postgres.figures import COUNT_LIMIT, DeadLetterFigures, LedgerFigures, QueueFigures
from infra.redis.figures import INTERVAL_SECONDS, StoredFigures
from service.activity import ACCEPTED, FAILED, RETRIED, SENT, TIME, quantile

__all__ = [
    "COUNT_LIMIT",
    "RATE_SECONDS",
    "DeadLetterFigures",
    "Figures",
    "FiguresFeed",
    "FiguresReader",
    "LedgerFigures",
    "LedgerSampler",
    "ProcessFigures",
    "QueueFigures",
    "Rates",
]

log = structlog.get_logger()

_T = TypeVar("_T")

RATE_SECONDS = INTERVAL_SECONDS
RATES = 360  # intervals: an hour
SAMPLE_SECONDS = 2.0
COUNT_SHARE = 20  # a sample that took one second is repeated after 20 s
CALL_SECONDS = 5.0
SHORTEST_LIFE_SECONDS = 10.0  # of the relay's sample in Redis
_YOUNGEST_SECONDS = 4.0  # of the interval in progress: before, its rates vary too much
_REREAD = 3  # intervals that late reports may still change


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process of the installation. `at`: its last report. `breakers`: closed, open or half-open, by provider."""

    id: str
    role: str  # api, worker or relay
    host: str
    pid: int
    started_at: datetime
    at: datetime
    in_flight: int
    breakers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Rates:
    """Events per second of one interval, over all processes: messages and reports, without callbacks.

    `sent` includes completed reports, `failed` includes unknown messages. The times begin at the acceptance
    or the last requeue, and end at `sent`; None: none was sent.
    """

    at: datetime  # start of the interval
    accepted: float
    sent: float
    failed: float
    retried: float
    time_to_sent_p50_seconds: float | None
    time_to_sent_p99_seconds: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """One sample for all viewers. `down`: services by name (postgres, redis, rabbitmq) and the reason, if one does not answer.

    `rates`: the last hour in intervals of `RATE_SECONDS`, oldest first; without Redis there are none. The last interval may be
    in progress. `ledger`: None if neither the relay's sample nor Postgres is available.
    """

    at: datetime
    ledger: LedgerFigures | None
    processes: list[ProcessFigures] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    down: dict[str, str] = field(default_factory=dict)


class Store(Protocol):
    """The part of Redis that is read here. Raises `Transient`."""

    async def read(self, intervals: int) -> StoredFigures: ...


class LedgerStore(Protocol):
    """The part of Redis that the relay writes. Raises `Transient`."""

    async def write_ledger(self, sample: bytes, seconds: float) -> None: ...


_LEDGER = TypeAdapter(LedgerFigures)
_PROCESS = TypeAdapter(ProcessFigures)


@dataclass(eq=False)
class LedgerSampler:
    """Samples the ledger at most every two seconds, and in at most a twentieth of the time: a slow sample is repeated later.

    Concurrent callers share one sample.
    """

    take: Callable[[float], Awaitable[LedgerFigures]]
    monotonic: Callable[[], float] = time.monotonic
    latest: LedgerFigures | None = field(default=None, init=False)
    pause_seconds: float = field(default=SAMPLE_SECONDS, init=False)  # until the next sample
    _due_at: float = field(default=float("-inf"), init=False)
    _sampling: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def sample(self) -> LedgerFigures:
        """The latest sample, or a new one if that is due. Raises `Transient`, and forgets the latest one."""
        async with self._sampling:
            started = self.monotonic()
            if self.latest is None or started >= self._due_at:
                self.latest = None
                self.latest = await self.take(CALL_SECONDS)
                ended = self.monotonic()
                self.pause_seconds = max(SAMPLE_SECONDS, COUNT_SHARE * (ended - started))
                self._due_at = ended + self.pause_seconds
            return self.latest


async def publish_samples(
    sampler: LedgerSampler, store: LedgerStore, is_leading: Callable[[], bool], observe: Callable[[LedgerFigures | None], None]
) -> None:
    """Sample the ledger while this relay is active, for all processes, until cancelled. `observe`: None on a standby."""
    postgres = OutageLog("figures_sample", "the depths of the queues are not measured")
    redis = OutageLog("figures_ledger", "API processes sample the ledger themselves")
    while True:
        sample, pause = None, SAMPLE_SECONDS
        if is_leading():
            try:
                sample = await sampler.sample()
                pause = sampler.pause_seconds
                postgres.succeeded()
            except Transient as error:
                postgres.failed(error)
        observe(sample)
        if sample is not None:
            try:
                await store.write_ledger(orjson.dumps(sample), max(SHORTEST_LIFE_SECONDS, 3 * pause))
                redis.succeeded()
            except Transient as error:
                redis.failed(error)
        await asyncio.sleep(pause)


@dataclass(eq=False)
class FiguresReader:
    """Reads the figures of the installation. `checks` return the reason why a service is down, else None.

    Rates of past intervals are kept in memory, so a read transfers the latest intervals only. Without a sample of the relay,
    the reader samples the ledger itself.
    """

    store: Store
    sampler: LedgerSampler
    checks: Mapping[str, Callable[[], Awaitable[str | None]]]
    monotonic: Callable[[], float] = time.monotonic
    _rates: dict[int, Rates] = field(default_factory=dict, init=False)
    _read_at: float = field(default=float("-inf"), init=False)

    async def read(self) -> Figures:
        """The figures of this instant. No outage makes it fail: the figures name it."""
        reasons = await asyncio.gather(*(check() for check in self.checks.values()))
        down = {name: reason for name, reason in zip(self.checks, reasons, strict=True) if reason is not None}
        stored = await self._stored(down)
        ledger = None if stored is None or stored.ledger is None else _parsed(_LEDGER, stored.ledger)
        if ledger is None:
            ledger = await self._sampled(down)
        if stored is None:
            return Figures(datetime.now(UTC), ledger, down=down)
        self._update_rates(stored)
        processes = sorted(filter(None, map(_process, stored.states)), key=lambda each: (each.role, each.host, each.pid))
        return Figures(_instant(stored.now_ms / 1000), ledger, processes, list(self._rates.values()), down)

    async def _stored(self, down: dict[str, str]) -> StoredFigures | None:
        missed = int((self.monotonic() - self._read_at) // RATE_SECONDS) if self._rates else RATES
        try:
            stored = await self.store.read(min(RATES + 1, missed + _REREAD))  # with the interval in progress
        except Transient as error:
            self._rates = {}
            down.setdefault("redis", str(error))
            return None
        self._read_at = self.monotonic()
        return stored

    async def _sampled(self, down: dict[str, str]) -> LedgerFigures | None:
        try:
            return await self.sampler.sample()
        except Transient as error:
            down.setdefault("postgres", str(error))
            return None

    def _update_rates(self, stored: StoredFigures) -> None:
        now = stored.now_ms / 1000
        for start, counts in stored.counts.items():
            seconds = min(RATE_SECONDS, now - start)
            if seconds >= _YOUNGEST_SECONDS:
                self._rates[start] = _rates(start, counts, seconds)
        self._rates = dict(sorted(self._rates.items())[-RATES:])


def _rates(start: int, counts: Mapping[str, int], seconds: float) -> Rates:
    times = {int(name.removeprefix(TIME)): count for name, count in counts.items() if name.startswith(TIME)}
    accepted, sent, failed, retried = (counts.get(name, 0) / seconds for name in (ACCEPTED, SENT, FAILED, RETRIED))
    return Rates(_instant(start), accepted, sent, failed, retried, quantile(times, 0.5), quantile(times, 0.99))


def _process(state: tuple[int, bytes]) -> ProcessFigures | None:
    at_ms, text = state
    try:
        value = {**orjson.loads(text), "at": _instant(at_ms / 1000)}
    except orjson.JSONDecodeError:
        return None
    return _parsed(_PROCESS, value)


def _parsed(adapter: TypeAdapter[_T], value: object) -> _T | None:
    """The value; None if another release wrote it in another form."""
    try:
        return adapter.validate_json(value) if isinstance(value, bytes) else adapter.validate_python(value)
    except ValidationError as error:
        log.debug("figures.unreadable", reason=str(error))
        return None


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(eq=False)
class FiguresFeed:
    """The figures for all viewers of one process: one sample an interval, and none without a viewer."""

    reader: FiguresReader
    interval_seconds: float = SAMPLE_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    latest: Figures | None = field(default=None, init=False)
    _due_at: float = field(default=float("-inf"), init=False)
    _sampling: "asyncio.Task[None] | None" = field(default=None, init=False)

    async def read(self) -> Figures:
        """A sample that is at most one interval old. Concurrent callers share one reading."""
        if self.latest is None or self.monotonic() >= self._due_at:
            if self._sampling is None:
                self._sampling = asyncio.create_task(self._sample())
            await asyncio.shield(self._sampling)
        assert self.latest is not None
        return self.latest

    async def watch(self) -> AsyncIterator[Figures]:
        """Each sample from now on, starting with the present one."""
        before = None
        while True:
            figures = await self.read()
            if figures is not before:
                yield figures
            before = figures
            await asyncio.sleep(max(0.01, self._due_at - self.monotonic()))

    async def _sample(self) -> None:
        try:
            self.latest = await self.reader.read()
            self._due_at = self.monotonic() + self.interval_seconds
        finally:
            self._sampling = None
