"""The JSON of every answer. mypy checks the endpoints against these types; the OpenAPI document is generated from them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import Field

# On Python 3.11, pydantic reads no other TypedDict.
from typing_extensions import TypedDict

from jobs.lifecycle import Status

Instant = Annotated[str, Field(description="RFC 3339 in UTC, with milliseconds", json_schema_extra={"format": "date-time"})]


def _one_of(*values: str) -> Any:
    """A string of the core, whose type names no values."""
    return Field(json_schema_extra={"enum": list(values)})


PriorityName = Annotated[str, _one_of("normal", "high")]
DeliveryName = Annotated[str, _one_of("at_least_once", "at_most_once")]
KindName = Annotated[str, _one_of("message", "report", "callback")]
ReportStatus = Annotated[str, _one_of("queued", "processing", "retrying", "completed", "failed", "unknown", "discarded")]
DeadStatus = Annotated[str, _one_of("failed", "unknown")]


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One invalid field: a JSON pointer (RFC 6901) or `?name` of a query parameter, a stable code, a sentence."""

    pointer: str
    code: str
    detail: str


class ItemProblem(TypedDict):
    """A problem (RFC 9457) with a stable `code` and every invalid field, as a batch item has it."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: NotRequired[list[FieldProblem]]


class ProblemOut(ItemProblem):
    """A problem as an answer of its own. It names the request."""

    request_id: str


class AcceptedOut(TypedDict):
    """The ledger contains the message. Posthaste will send it."""

    id: UUID
    status: Literal["queued"]
    created_at: Instant
    links: dict[str, str]


class ReportAcceptedOut(AcceptedOut):
    """The ledger contains the report. Posthaste will compute it."""

    message: str


class BatchItemOut(TypedDict):
    """One item of a batch: its index, and its id or its problem."""

    index: int
    id: NotRequired[UUID]
    status: NotRequired[Literal["queued"]]
    problem: NotRequired[ItemProblem]


class BatchOut(TypedDict):
    """Every item, in order."""

    data: list[BatchItemOut]


class StatusOut(TypedDict):
    """A job's status, in exactly one field."""

    status: Status


class MessageRowOut(TypedDict):
    """A message in a list."""

    id: UUID
    status: Status
    version: int
    destination: str
    provider: str
    priority: PriorityName
    reference: str | None
    tags: list[str]
    attempts: int
    reason: str | None
    created_at: Instant
    updated_at: Instant
    finished_at: Instant | None
    links: dict[str, str]


class MessageListOut(TypedDict):
    """A page, newest first. `next_cursor` leads to the next page; the last page has null."""

    data: list[MessageRowOut]
    next_cursor: str | None


class MessageOut(MessageRowOut):
    """A message's record."""

    body: Annotated[str | None, Field(description="null: the message was sent, and bodies are not retained")]
    delivery: DeliveryName
    metadata: dict[str, Any] | None
    callback_url: str | None
    provider_message_id: str | None
    next_attempt_at: Instant | None


class AttemptOut(TypedDict):
    """One attempt and its outcome. `revision` counts requeues."""

    revision: int
    n: int
    outcome: str
    reason: str | None
    charged: bool
    provider_code: int | None
    ran_seconds: float | None
    ended_at: Instant


class AttemptsOut(TypedDict):
    """Every attempt, oldest first."""

    data: list[AttemptOut]


class CallbackOut(TypedDict):
    """One callback. Its id is the `webhook-id`."""

    id: UUID
    type: str
    sequence: int
    url: str
    status: Status
    attempts: int
    reason: str | None
    created_at: Instant
    finished_at: Instant | None
    next_attempt_at: Instant | None


class CallbacksOut(TypedDict):
    """Every callback, oldest first."""

    data: list[CallbackOut]


class Progress(TypedDict):
    """The number of counted posts, and the approximate total."""

    posts: int
    of_about: int | None


class ReportOut(TypedDict):
    """A report's state."""

    id: UUID
    status: ReportStatus
    version: int
    progress: Progress | None
    attempts: int
    reason: str | None
    last_reason: str | None
    callback_url: str | None
    created_at: Instant
    updated_at: Instant
    finished_at: Instant | None
    next_attempt_at: Instant | None
    links: dict[str, str]


class ReportListOut(TypedDict):
    """A page, newest first."""

    data: list[ReportOut]
    next_cursor: str | None


class TotalOut(TypedDict):
    """The total words of one user's posts."""

    user_id: int
    total_words: int


class TotalsOut(TypedDict):
    """Totals by ascending user id. Only a page has `next_cursor`."""

    data: list[TotalOut]
    next_cursor: NotRequired[str | None]


class DeadLetterOut(TypedDict):
    """A failed or unknown job."""

    id: UUID
    version: int
    status: DeadStatus
    kind: KindName
    provider: str | None
    priority: str
    destination: str | None
    reference: str | None
    tags: list[str]
    reason: str | None
    last_reason: str | None
    provider_code: int | None
    attempts: int
    revision: int
    created_at: Instant
    failed_at: Instant
    age_seconds: float
    links: dict[str, str]


class DeadLetterListOut(TypedDict):
    """A page, by id."""

    data: list[DeadLetterOut]
    next_cursor: str | None


class RequeuedOut(TypedDict):
    """The requeued jobs, and the others by reason. With `dry_run`, only `would_requeue`."""

    requeued: NotRequired[list[UUID]]
    unconfigured_provider: NotRequired[list[UUID]]
    expired: NotRequired[list[UUID]]
    would_requeue: NotRequired[list[UUID]]


class DiscardedOut(TypedDict):
    """The discarded jobs. With `dry_run`, only `would_discard`."""

    discarded: NotRequired[list[UUID]]
    would_discard: NotRequired[list[UUID]]


class LiveOut(TypedDict):
    """The process answers."""

    status: Literal["live"]


class ReadyOut(TypedDict):
    """Whether the API accepts messages now, and the state of each dependency."""

    status: Literal["ready", "unavailable"]
    checks: dict[str, str]


class VersionOut(TypedDict):
    """The release, and the schema revision that it needs."""

    name: str
    version: str
    schema: str
