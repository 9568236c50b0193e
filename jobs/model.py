"""Jobs: their kinds and queues, and the values in which they are accepted, claimed and changed."""

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
    CALLBACK = "callback"  # notifies a client of another job's final status


class Priority(StrEnum):
    """Each priority has its own queue: message priority inside one queue differs between RabbitMQ 3.10 and 4."""

    HIGH = "high"
    NORMAL = "normal"


class Delivery(StrEnum):
    """The policy for unknown outcomes: retry (the provider may receive a duplicate), or stop for an operator."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class Route(StrEnum):
    """The exchange of an outbox row: work, or the copy of a dead letter."""

    WORK = "work"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """The queue of a job. Messages have one for each provider and priority; every other kind has one."""

    kind: Kind
    provider: str | None = None
    priority: Priority = Priority.NORMAL

    @property
    def name(self) -> str:
        """The logical name, without namespace."""
        return f"{self.kind}s" if self.provider is None else f"{self.kind}s.{self.provider}.{self.priority}"

    @property
    def dead(self) -> str:
        """The logical name of the queue that holds this kind's dead letters."""
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
    """A client's name for one request to one route. `fingerprint`: the SHA-256 (hex) of the request."""

    route: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated job before its acceptance. A message has a destination and a body; a report has neither."""

    id: UUID
    client_id: str
    queue: WorkQueue
    destination: str | None = None
    body: str | None = None
    delivery: Delivery = Delivery.AT_LEAST_ONCE
    reference: str | None = None  # like tags and metadata stored and returned unchanged
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    key: IdempotencyKey | None = None  # at most one job is accepted under it
    callback_url: str | None = None  # each final status is posted to it
    traceparent: str | None = None  # W3C Trace Context; None: without tracing


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claimed job, fenced by `version` and owned through `token` until the lease ends."""

    id: UUID
    version: int
    token: UUID
    revision: int
    client_id: str
    queue: WorkQueue
    destination: str | None  # a callback's is its URL
    body: str | None  # a callback's is the JSON text of the request
    delivery: Delivery
    key_revision: int
    attempts: int  # the charged ones of this revision
    tries: int  # the claims that ended in an outcome or a lost lease
    lost_leases: int
    age_seconds: float  # from acceptance (or requeue) to the claim, by Postgres' clock
    traceparent: str | None = None

    @property
    def deferrals(self) -> int:
        """The uncharged tries of this revision, except lost leases."""
        return max(0, self.tries - self.attempts - self.lost_leases)

    @property
    def idempotency_key(self) -> str:
        """The key that the provider receives: equal in every retry, different after a requeue from `failed`.

        A provider may replay its failure under an equal key. A requeue from `unknown` keeps it: the message may have arrived.
        """
        return f"{self.id}" if self.key_revision == 0 else f"{self.id}-{self.key_revision}"


@dataclass(frozen=True, slots=True)
class KnownStatus:
    """A job's status at one version, its kind and its client. `at`: monotonic seconds, not later than the commit or read."""

    id: UUID
    version: int
    status: Status
    kind: Kind
    client_id: str
    at: float


@dataclass(frozen=True, slots=True)
class LostLease:
    """A job in `processing` whose lease has expired or whose worker has died.

    `started`: False if its attempt cannot have begun. `worker_id`: the dead worker, under a lease that still runs.
    """

    id: UUID
    version: int
    token: UUID
    queue: WorkQueue
    delivery: Delivery
    lost_leases: int
    started: bool = True
    worker_id: int | None = None


@dataclass(slots=True)
class Progress:
    """The progress of a long job, updated by its handler: items done, and their estimated total (None: unknown).

    `detail`: further figures as JSON; see `infra.postgres.job_reads.Progress`.
    """

    done: int = 0
    estimate: int | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt row of a claim that ended. The job may have another `reason` (`attempts_exhausted`)."""

    outcome: str
    charged: bool
    reason: str | None = None
    provider_code: int | None = None
    ran_seconds: float | None = None  # by the worker's monotonic clock
    answer: str | None = None  # an excerpt of the provider's text


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of one job. It applies only while the job is at `version` and claimed under `token`.

    `counts_as_lost`: whether the lost lease counts against the job's limit.
    """

    id: UUID
    version: int
    token: UUID
    to: Status
    cause: Cause
    attempt: Attempt | None = None
    reason: str | None = None
    provider_message_id: str | None = None
    delay_seconds: float = 0.0  # from the commit, by Postgres' clock
    route: Route | None = None  # of the message that is published to `queue`; None: nothing is published
    queue: str | None = None
    counts_as_lost: bool = False
