"""What a job is: its kinds, and the shapes in which it is accepted, claimed and moved on."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from jobs.lifecycle import Cause, Status


class Kind(StrEnum):
    """The kinds of work. Each has its own queues; all share one lifecycle."""

    MESSAGE = "message"


class Priority(StrEnum):
    """A queue of its own for each: message priority inside one queue differs between RabbitMQ 3.10 and 4."""

    HIGH = "high"
    NORMAL = "normal"


class Route(StrEnum):
    """Which exchange an outbox row goes to: work to do, or the copy of a dead letter."""

    WORK = "work"
    DEAD = "dead"


def work_queue(provider: str, priority: Priority) -> str:
    """The logical name (without namespace) of the queue where messages for `provider` wait."""
    return f"messages.{provider}.{priority}"


DEAD_QUEUES: dict[Kind, str] = {Kind.MESSAGE: "messages.dead"}


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A validated message that is to be accepted. `reference`, `tags` and `metadata` are the client's own: kept, returned."""

    id: UUID
    client_id: str
    provider: str
    priority: Priority
    destination: str
    body: str
    reference: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None

    @property
    def queue(self) -> str:
        return work_queue(self.provider, self.priority)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job as its claim returned it: fenced by `version`, owned through `token` until the lease ends.

    `attempts` counts what was charged against the limit in this revision, `tries` every claim that ended in an
    outcome or a lost lease; `age_seconds` is measured by Postgres' clock from acceptance (or requeue) to the claim.
    """

    id: UUID
    version: int
    token: UUID
    revision: int
    kind: Kind
    client_id: str
    provider: str
    priority: Priority
    destination: str
    body: str
    attempts: int
    tries: int
    lost_leases: int
    age_seconds: float

    @property
    def queue(self) -> str:
        return work_queue(self.provider, self.priority)

    @property
    def idempotency_key(self) -> str:
        """The key that the provider sees: equal for every retry, another one once requeued from `failed`."""
        return f"{self.id}" if self.revision == 0 else f"{self.id}-{self.revision}"


@dataclass(frozen=True, slots=True)
class KnownStatus:
    """A job's status at one version, and whose it is. `at`: monotonic seconds, not later than its commit or read."""

    id: UUID
    version: int
    status: Status
    client_id: str
    at: float


@dataclass(frozen=True, slots=True)
class LostLease:
    """A job in `processing` whose lease has run out, as the reaper found it."""

    id: UUID
    version: int
    token: UUID
    kind: Kind
    provider: str
    priority: Priority
    lost_leases: int

    @property
    def queue(self) -> str:
        return work_queue(self.provider, self.priority)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The row to be written for a claim that ended; `ran_seconds` by the worker's monotonic clock, if it is known."""

    outcome: str
    charged: bool
    provider_code: int | None = None
    ran_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of one job, applied only if the job is still at `version` and held under `token`.

    `delay_seconds` is counted from the commit by Postgres' clock. `queue` (with `route`) is where a copy must be
    published because of this step, None for nowhere.
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

    @property
    def lost_lease(self) -> bool:
        return self.cause is Cause.LEASE_LOST
