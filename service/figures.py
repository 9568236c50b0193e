"""Figures: the live state of a whole installation, for the console, `posthaste top` and the relay's metrics."""

from dataclasses import dataclass, field
from datetime import datetime

COUNT_LIMIT = 10_000  # counts stop here: "10,000+"


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One work queue by its logical name. `waiting` stops at `COUNT_LIMIT`; `oldest_seconds`: since its oldest job was due."""

    name: str
    waiting: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class DeadLetterFigures:
    """Dead letters with the same reason; `count` stops at `COUNT_LIMIT`."""

    kind: str
    provider: str | None
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class LedgerFigures:
    """A sample of the ledger, which the active relay takes. `outbox_due`: rows that are due and not yet published."""

    at: datetime
    queues: list[QueueFigures]
    dead_letters: list[DeadLetterFigures]
    processing: int
    outbox_due: int
    outbox_oldest_seconds: float | None
    paused: dict[str, datetime]  # provider and the start of its pause


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
    """Events per second of one interval, over all processes. Times from acceptance to `sent`; None: none was sent."""

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

    `rates`: the last hour in intervals of `RATE_SECONDS`, oldest first; without Redis there are none. `ledger`: None if neither
    the relay's sample nor Postgres is available.
    """

    at: datetime
    ledger: LedgerFigures | None
    processes: list[ProcessFigures] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    down: dict[str, str] = field(default_factory=dict)


RATE_SECONDS = 10
