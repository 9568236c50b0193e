"""The shapes of answers, for the OpenAPI document. The routes write them by hand, for speed; tests hold the two together."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from jobs.lifecycle import Status

Instant = Annotated[datetime, Field(description="RFC 3339 in UTC, with milliseconds")]
ReportStatus = Literal["queued", "processing", "retrying", "completed", "failed", "unknown", "discarded"]


class Shape(BaseModel):
    """Every answer is closed: what is not named is not there."""

    model_config = ConfigDict(extra="forbid")


class FieldProblem(Shape):
    """One bad field: a JSON pointer to it (`?name` for a parameter of the query), a stable code, a sentence."""

    pointer: str
    code: str
    detail: str


class ItemProblem(Shape):
    """RFC 9457, with a stable `code`, and every bad field; as it stands in the place of a batch's item."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldProblem] = []


class ProblemOut(ItemProblem):
    """The same as an answer of its own, which names the request."""

    request_id: str


class AcceptedOut(Shape):
    """A message is in the ledger: it will be sent."""

    id: UUID
    status: Literal["queued"]
    created_at: Instant
    links: dict[str, str]


class ReportAcceptedOut(AcceptedOut):
    """A report is in the ledger: it will be computed."""

    message: str


class BatchItemOut(Shape):
    """One item of a batch, by its index: its id, or its problem."""

    index: int
    id: UUID | None = None
    status: Literal["queued"] | None = None
    problem: ItemProblem | None = None


class BatchOut(Shape):
    """Every item in order."""

    data: list[BatchItemOut]


class StatusOut(Shape):
    """What became of a job: exactly this one field."""

    status: Status


class MessageRowOut(Shape):
    """A message in a list."""

    id: UUID
    status: Status
    version: int
    destination: str
    provider: str
    priority: Literal["normal", "high"]
    reference: str | None
    tags: list[str]
    attempts: int
    reason: str | None
    created_at: Instant
    updated_at: Instant
    finished_at: Instant | None
    links: dict[str, str]


class MessageListOut(Shape):
    """A page, newest first; `next_cursor` leads to the next one, null: there is none."""

    data: list[MessageRowOut]
    next_cursor: str | None


class MessageOut(MessageRowOut):
    """A message's record."""

    body: Annotated[str | None, Field(description="null: it was sent, and bodies are not kept")]
    delivery: Literal["at_least_once", "at_most_once"]
    metadata: dict[str, Any] | None
    callback_url: str | None
    provider_message_id: str | None
    next_attempt_at: Instant | None


class AttemptOut(Shape):
    """What one attempt came to; `revision` counts requeues."""

    revision: int
    n: int
    outcome: str
    reason: str | None
    charged: bool
    provider_code: int | None
    ran_seconds: float | None
    ended_at: Instant


class AttemptsOut(Shape):
    """Every attempt, oldest first."""

    data: list[AttemptOut]


class CallbackOut(Shape):
    """One callback; its id is the `webhook-id`."""

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


class CallbacksOut(Shape):
    """Every callback, oldest first."""

    data: list[CallbackOut]


class Progress(Shape):
    """Posts counted, of about how many."""

    posts: int
    of_about: int | None


class ReportOut(Shape):
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


class ReportListOut(Shape):
    """A page, newest first."""

    data: list[ReportOut]
    next_cursor: str | None


class TotalOut(Shape):
    """The words of one user's posts."""

    user_id: int
    total_words: int


class TotalsOut(Shape):
    """By ascending user id; `next_cursor` where a page was asked for."""

    data: list[TotalOut]
    next_cursor: str | None = None


class DeadLetterOut(Shape):
    """A failed or unknown job."""

    id: UUID
    version: int
    status: Literal["failed", "unknown"]
    kind: Literal["message", "report", "callback"]
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


class DeadLetterListOut(Shape):
    """A page, by id."""

    data: list[DeadLetterOut]
    next_cursor: str | None


class RequeuedOut(Shape):
    """Which were queued anew, and which were left, why; or, with `dry_run`, which would be."""

    requeued: list[UUID] = []
    unconfigured_provider: list[UUID] = []
    expired: list[UUID] = []
    would_requeue: list[UUID] = []


class DiscardedOut(Shape):
    """Which were ended for good; or, with `dry_run`, which would be."""

    discarded: list[UUID] = []
    would_discard: list[UUID] = []


class LiveOut(Shape):
    """It answers."""

    status: Literal["live"]


class ReadyOut(Shape):
    """Whether a message would be accepted now, and how each dependency is."""

    status: Literal["ready", "unavailable"]
    checks: dict[str, str]


class VersionOut(Shape):
    """Which release this is, and which revision of the schema it needs."""

    name: str
    version: str
    schema_: str = Field(alias="schema")
