"""The transition table of every job, as data. `docs/lifecycle.md` draws it; a test compares the two."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The status of a job. `sent`: the provider accepted it. `delivered`: a receipt confirmed it."""

    QUEUED = "queued"
    PROCESSING = "processing"
    RETRYING = "retrying"
    SENT = "sent"
    DELIVERED = "delivered"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    CANCELED = "canceled"
    EXPIRED = "expired"
    DISCARDED = "discarded"


class Cause(StrEnum):
    CLAIM = "claim"
    ACCEPTED = "accepted"
    RETRYABLE = "retryable"
    REJECTED = "rejected"
    OUTCOME_UNKNOWN = "outcome unknown"
    RELEASED = "released"
    LEASE_LOST = "lease lost"
    CANCEL = "cancel"
    EXPIRE = "expire"
    MOVE = "move"
    REQUEUE = "requeue"
    DISCARD = "discard"
    LATE_ACCEPTANCE = "late acceptance"
    RECEIPT = "receipt"


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """One transition that the table allows."""

    source: Status
    target: Status
    cause: Cause


def _edges(sources: str, targets: str, cause: Cause) -> set[Edge]:
    return {Edge(Status(s), Status(t), cause) for s in sources.split() for t in targets.split()}


TRANSITIONS: frozenset[Edge] = frozenset(
    _edges("queued retrying", "processing", Cause.CLAIM)
    | _edges("failed unknown", "processing", Cause.CLAIM)  # a dead letter that was moved by hand: revision + 1
    | _edges("processing", "sent completed", Cause.ACCEPTED)
    | _edges("processing", "retrying failed", Cause.RETRYABLE)  # failed: attempts or deadline exhausted
    | _edges("processing", "failed", Cause.REJECTED)
    | _edges("processing", "retrying failed unknown", Cause.OUTCOME_UNKNOWN)  # unknown: delivery at_most_once
    | _edges("processing", "queued", Cause.RELEASED)
    | _edges("processing", "retrying unknown failed", Cause.LEASE_LOST)
    | _edges("queued retrying", "canceled", Cause.CANCEL)
    | _edges("queued retrying", "expired", Cause.EXPIRE)
    | _edges("queued", "queued", Cause.MOVE)  # another provider: copies for the old one are stale
    | _edges("retrying", "retrying", Cause.MOVE)
    | _edges("failed unknown", "queued", Cause.REQUEUE)
    | _edges("failed unknown", "discarded", Cause.DISCARD)
    | _edges("retrying unknown", "sent", Cause.LATE_ACCEPTANCE)
    | _edges("sent", "delivered failed", Cause.RECEIPT)
)

# The final statuses, for waiting clients and for retention. Some have an exit: requeue, discard, receipt.
ENDS: frozenset[Status] = frozenset(Status) - {Status.QUEUED, Status.PROCESSING, Status.RETRYING}
SUCCESSES: frozenset[Status] = frozenset({Status.SENT, Status.DELIVERED, Status.COMPLETED})


def sources(cause: Cause) -> frozenset[Status]:
    """The statuses that `cause` may move a job out of."""
    return frozenset(edge.source for edge in TRANSITIONS if edge.cause is cause)


def has_exit(status: Status) -> bool:
    """Whether a job in this status can still change. The status cache keeps such a status for seconds only."""
    return any(edge.source is status for edge in TRANSITIONS)
