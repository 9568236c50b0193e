"""What a job is: its kinds, and the shapes in which it is accepted, claimed and moved on."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from jobs.lifecycle import Cause, Status


class Kind(StrEnum):
    """The kinds of work. Each has its own queues; all share one lifecycle."""

    MESSAGE = "message"
    REPORT = "report"
    CALLBACK = "callback"  # tells a client that one of the others has ended


class Priority(StrEnum):
    """A queue of its own for each: message priority inside one queue differs between RabbitMQ 3.10 and 4."""

    HIGH = "high"
    NORMAL = "normal"


class Delivery(StrEnum):
    """What happens when an outcome is unknown: try again (perhaps twice at the provider), or stop and let a person decide."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class Route(StrEnum):
    """Which exchange an outbox row goes to: work to do, or the copy of a dead letter."""

    WORK = "work"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """Where jobs wait: messages in a queue for each provider and priority, every other kind in one of its own."""

    kind: Kind
    provider: str | None = None
    priority: Priority = Priority.NORMAL

    @property
    def name(self) -> str:
        """The logical name, without namespace."""
        return f"{self.kind}s" if self.provider is None else f"{self.kind}s.{self.provider}.{self.priority}"

    @property
    def dead(self) -> str:
        """The logical name of the queue where this kind's dead letters lie."""
        return f"{self.kind}s.dead"


REPORTS = WorkQueue(Kind.REPORT)
CALLBACKS = WorkQueue(Kind.CALLBACK)
DEAD_QUEUES: dict[Kind, str] = {kind: WorkQueue(kind).dead for kind in Kind}


def message_queue(provider: str, priority: Priority = Priority.NORMAL) -> WorkQueue:
    return WorkQueue(Kind.MESSAGE, provider, priority)


def work_queues(providers: Iterable[str]) -> list[WorkQueue]:
    """Every work queue of an installation with these providers."""
    return [*(message_queue(name, priority) for name in providers for priority in Priority), REPORTS, CALLBACKS]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a client calls one request to one route; `fingerprint`: the SHA-256 (hex) of what it asks for."""

    route: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job that is to be accepted: a message has a destination and a body, a report neither.

    `reference`, `tags` and `metadata` are the client's own: kept, returned. With a `key`, at most one job comes of it. Each
    end that it comes to is told to `callback_url`.
    """

    id: UUID
    client_id: str
    queue: WorkQueue
    destination: str | None = None
    body: str | None = None
    delivery: Delivery = Delivery.AT_LEAST_ONCE
    reference: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    key: IdempotencyKey | None = None
    callback_url: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job as its claim returned it: fenced by `version`, owned through `token` until the lease ends.

    The `destination` of a callback is its URL, its `body` the JSON text that is posted there.

    `attempts` counts what was charged against the limit in this revision, `tries` every claim that ended in an
    outcome or a lost lease; `age_seconds` is measured by Postgres' clock from acceptance (or requeue) to the claim.
    """

    id: UUID
    version: int
    token: UUID
    revision: int
    client_id: str
    queue: WorkQueue
    destination: str | None
    body: str | None
    delivery: Delivery
    key_revision: int
    attempts: int
    tries: int
    lost_leases: int
    age_seconds: float

    @property
    def deferrals(self) -> int:
        """The uncharged tries of this revision, those of lost leases aside."""
        return max(0, self.tries - self.attempts - self.lost_leases)

    @property
    def idempotency_key(self) -> str:
        """The key that the provider sees: equal for every retry, another one once requeued from `failed`.

        So a provider that replays its first answer does not replay the failure. What was requeued from `unknown` keeps its
        key: if the provider has it already, it can tell.
        """
        return f"{self.id}" if self.key_revision == 0 else f"{self.id}-{self.key_revision}"


@dataclass(frozen=True, slots=True)
class KnownStatus:
    """A job's status at one version, of which kind it is, and whose. `at`: monotonic, not later than its commit or read."""

    id: UUID
    version: int
    status: Status
    kind: Kind
    client_id: str
    at: float


@dataclass(frozen=True, slots=True)
class LostLease:
    """A job in `processing` whose lease has run out, as the reaper found it; `started`: False if it surely had not begun."""

    id: UUID
    version: int
    token: UUID
    queue: WorkQueue
    delivery: Delivery
    lost_leases: int
    started: bool = True


@dataclass(slots=True)
class Progress:
    """How far a long job is, told by its handler while it runs: items done, of about how many if that is known."""

    done: int = 0
    about: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """The row to be written for a claim that ended; `ran_seconds` by the worker's monotonic clock, if it is known.

    `reason` is this attempt's own; the job's may say more (`attempts_exhausted`).
    """

    outcome: str
    charged: bool
    reason: str | None = None
    provider_code: int | None = None
    ran_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of one job, applied only if the job is still at `version` and claimed under `token`.

    `delay_seconds` counts from the commit, by Postgres' clock. A message is published to `queue` by `route`; None publishes
    nothing. `counts_as_lost`: whether this lost lease counts against the job's limit.
    """

    id: UUID
    version: int
    token: UUID
    to: Status
    cause: Cause
    attempt: Attempt | None = None
    reason: str | None = None
    provider_message_id: str | None = None
    delay_seconds: float = 0.0
    route: Route | None = None
    queue: str | None = None
    counts_as_lost: bool = False

    @property
    def lost_lease(self) -> bool:
        return self.cause is Cause.LEASE_LOST
