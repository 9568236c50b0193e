"""The JSON of every answer. mypy checks the endpoints against these types; the OpenAPI document is generated from them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NotRequired
from uuid import UUID

# On Python 3.11, pydantic reads no other TypedDict.
from typing_extensions import TypedDict

from infra.postgres.dead_letters import LetterFields
from infra.postgres.job_reads import Attempt, Callback, MessageRecord, MessageRow, ReportRecord
from jobs.lifecycle import Status
from jobs.reports import Order


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
    created_at: datetime
    links: dict[str, str]


class ReportAcceptedOut(AcceptedOut):
    """The ledger contains the report. Posthaste will compute it."""

    message: str


class BatchItemOut(TypedDict):
    """One item of a batch: its index, and its id or its problem."""

    index: int
    id: NotRequired[UUID]
    status: NotRequired[Literal["queued"]]
    replayed: NotRequired[Literal[True]]
    problem: NotRequired[ItemProblem]


class BatchOut(TypedDict):
    """Every item, in order."""

    data: list[BatchItemOut]


class StatusOut(TypedDict):
    """A job's status, in exactly one field."""

    status: Status


class MessageRowOut(MessageRow):
    """A message in a list."""

    links: dict[str, str]


class MessageListOut(TypedDict):
    """A page, newest first. `next_cursor` leads to the next page; the last page has null."""

    data: list[MessageRowOut]
    next_cursor: str | None


class MessageOut(MessageRecord):
    """A message's record."""

    links: dict[str, str]


class AttemptsOut(TypedDict):
    """Every attempt, oldest first."""

    data: list[Attempt]


class CallbacksOut(TypedDict):
    """Every callback, oldest first."""

    data: list[Callback]


class ReportOut(ReportRecord):
    """A report's state."""

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
    """Totals by ascending user id."""

    data: list[TotalOut]


class LengthOut(TypedDict):
    """The number of posts with this number of words."""

    words: int
    posts: int


class ResultOut(TypedDict):
    """Totals in the order of the report. Only a page has `next_cursor`; only a whole result may have `histogram`."""

    data: list[TotalOut]
    next_cursor: NotRequired[str | None]
    histogram: NotRequired[list[LengthOut]]


class HistogramOut(TypedDict):
    """Posts by their number of words, ascending."""

    data: list[LengthOut]


# The names of `ReportIn`; `from` is a keyword. Without `callback_url`, the default callback URL applies.
ScheduledReportOut = TypedDict(
    "ScheduledReportOut",
    {
        "from": datetime | None,
        "to": datetime | None,
        "user_ids": list[int] | None,
        "order": Order,
        "limit": int | None,
        "histogram": Literal["words"] | None,
        "callback_url": NotRequired[str | None],
    },
)


class ScheduleOut(TypedDict):
    """A recurring report. `last_job` and `last_status`: of its newest report, unless retention has deleted that."""

    client: str
    name: str
    cron: str
    timezone: str
    report: ScheduledReportOut
    created_at: datetime
    next_at: datetime
    active: bool
    last_at: datetime | None
    last_job: UUID | None
    last_status: Status | None
    links: dict[str, str]


class ScheduleListOut(TypedDict):
    """Every schedule of the client, by name."""

    data: list[ScheduleOut]


@dataclass(frozen=True, slots=True)
class DeadLetterOut(LetterFields):
    """A failed or unknown job."""

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
