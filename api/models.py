"""The request models: bodies and query strings."""

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from infra.webhooks.guard import MAX_URL
from jobs.lifecycle import Status
from jobs.model import Kind
from jobs.reports import ReportParameters

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
MAX_DESTINATION = 320  # characters
MAX_BODY = 65_536  # bytes of UTF-8
MAX_METADATA = 4096  # bytes as JSON
MAX_BATCH = 1000  # messages
MAX_PAGE = 200  # jobs
MAX_RESULT_PAGE = 10_000  # rows of a result
MAX_USER_IDS = 10_000
MAX_TOP_USERS = 1_000_000


def _storable(value: str) -> str:
    """Postgres rejects the NUL character, and UTF-8 has no lone surrogates."""
    if "\0" in value:
        raise PydanticCustomError("nul_character", "must not contain the NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("invalid_unicode", "must not contain a lone surrogate") from error
    return value


def _bounded(value: str) -> str:
    size = len(value.encode())
    if size > MAX_BODY:
        detail = "must have at most {limit} bytes of UTF-8, has {size}"
        raise PydanticCustomError("too_long", detail, {"limit": MAX_BODY, "size": size})
    return value


Storable = AfterValidator(_storable)


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """Metadata that Postgres stores and JSON returns unchanged: bounded, no NUL, no lone surrogate, numbers of 64 bits."""
    try:
        text = orjson.dumps(value)
    except (TypeError, ValueError) as error:  # lone surrogates, integers over 64 bits
        detail = "has a value that JSON cannot carry: {why}"
        raise PydanticCustomError("unsupported_value", detail, {"why": str(error)}) from error
    if len(text) > MAX_METADATA:
        raise PydanticCustomError("too_long", "must have at most {limit} bytes as JSON", {"limit": MAX_METADATA})
    if b"\\u0000" in text:
        raise PydanticCustomError("nul_character", "must not contain the NUL character")
    if not _in_range(value):
        raise PydanticCustomError("unsupported_value", "has a number outside -2^63 to 2^63 - 1")
    return value


def _in_range(value: object) -> bool:
    """Whether every number fits into 64 bits. Infinity, the result of an overflow, does not."""
    if isinstance(value, dict):
        return all(map(_in_range, value.values()))
    if isinstance(value, list):
        return all(map(_in_range, value))
    return not isinstance(value, int | float) or -(2**63) <= value < 2**63


def _one_line(value: str) -> str:
    """Protocols of providers end lines at control characters, so a destination has none."""
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise PydanticCustomError("control_character", "must not contain control characters")
    if not value.strip():
        raise PydanticCustomError("too_short", "must not be blank")
    return value


CallbackUrl = Annotated[str, Field(min_length=1, max_length=MAX_URL), Storable]


def _rfc3339(value: object) -> object:
    """Instants are RFC 3339 strings. pydantic also accepts numbers, which have no unit."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise PydanticCustomError("wrong_format", "must be an instant like 2026-11-22T04:00:00Z (RFC 3339)")
    return value


def _in_utc(value: datetime) -> datetime:
    """Postgres supports fewer offsets, and no year before 1."""
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("wrong_format", "is outside the calendar in UTC") from error


def _whole(value: object) -> object:
    """JSON has one number type: 5.0 is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Not strict: a strict model would reject the string before it is read.
Instant = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_rfc3339), AfterValidator(_in_utc)]
Cursor = Annotated[str, Field(max_length=100, json_schema_extra={"format": "cursor"})]
ResultCursor = Annotated[str, Field(max_length=100, json_schema_extra={"format": "result-cursor"})]
Tag = Annotated[str, Field(min_length=1, max_length=64), Storable]
Reference = Annotated[str, Field(min_length=1, max_length=255), Storable]
Provider = Annotated[str, Field(min_length=1, max_length=32), Storable]


_MESSAGE: JsonDict = {"destination": "+15550001", "body": "Hello"}
_FULL_MESSAGE: JsonDict = _MESSAGE | {
    "priority": "high",
    "delivery": "at_most_once",
    "reference": "order-17",
    "tags": ["welcome"],
    "metadata": {"order": 17},
}


def _examples(*examples: JsonDict) -> JsonDict:
    """Examples of requests, for the JSON schema of a model."""
    return {"examples": list(examples)}


class _Model(BaseModel, extra="forbid", frozen=True):
    """Unknown fields are rejected."""


class MessageIn(_Model, strict=True, json_schema_extra=_examples(_MESSAGE, _FULL_MESSAGE)):
    """The body of `POST /messages`. Without `provider`, the default provider sends the message.

    `reference`, `tags` and `metadata` are the client's own: Posthaste stores and returns them. `callback_url` receives every
    final status; `null` disables the default callback.
    """

    destination: Annotated[str, Field(min_length=1, max_length=MAX_DESTINATION), Storable, AfterValidator(_one_line)]
    body: Annotated[str, Field(min_length=1), Storable, AfterValidator(_bounded)]
    provider: Provider | None = None
    priority: Literal["normal", "high"] = "normal"
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    reference: Reference | None = None
    tags: Annotated[list[Tag], Field(max_length=10)] = []
    metadata: Annotated[dict[str, Any], AfterValidator(_plain_json)] | None = None
    callback_url: CallbackUrl | None = None


UserId = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
_REPORT: JsonDict = {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z", "order": "words", "limit": 10}


class ReportIn(
    _Model, strict=True, json_schema_extra=_examples(_REPORT, {"callback_url": "https://example.com/hooks/posthaste"})
):
    """The body of `POST /api/2.0/report/posts`. `callback_url` is as in `MessageIn`.

    The report counts posts with `created_at` from `from` to before `to`, of the users in `user_ids`. `limit` keeps the users
    with the most words. `histogram` adds the number of posts by their number of words.
    """

    start: Instant | None = Field(None, alias="from")
    end: Instant | None = Field(None, alias="to")
    user_ids: Annotated[list[UserId], Field(min_length=1, max_length=MAX_USER_IDS)] | None = None
    order: Literal["user_id", "words"] = "user_id"
    limit: Annotated[int, Field(ge=1, le=MAX_TOP_USERS)] | None = None
    histogram: Literal["words"] | None = None
    callback_url: CallbackUrl | None = None

    @field_validator("end")
    @classmethod
    def _is_after_start(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        start = info.data.get("start")
        if value is not None and start is not None and value <= start:
            raise PydanticCustomError("empty_range", "must be after `from`")
        return value

    def parameters(self) -> ReportParameters:
        user_ids = None if self.user_ids is None else tuple(self.user_ids)
        return ReportParameters(self.start, self.end, user_ids, self.order, self.limit, self.histogram is not None)


class PageQuery(_Model, json_schema_extra=_examples({"limit": 10})):
    """A page of a list: at most `limit` items after `cursor`, the `next_cursor` of the previous page."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    cursor: Cursor | None = None


class MessageQuery(PageQuery, json_schema_extra=_examples({"status": "sent", "limit": 10})):
    """The filter of `GET /messages`, and a page. A message matches every field of the filter."""

    status: Literal["queued", "processing", "retrying", "sent", "failed", "unknown", "discarded"] | None = None
    destination: Annotated[str, Field(min_length=1, max_length=MAX_DESTINATION), Storable] | None = None
    tag: Tag | None = None
    reference: Reference | None = None


class ResultQuery(_Model, json_schema_extra=_examples({"format": "csv"})):
    """The format of a report's result, else by Accept, and a page of it, else all."""

    format: Literal["json", "csv"] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_RESULT_PAGE)] | None = None
    cursor: ResultCursor | None = None


class DeadLetterFilter(_Model):
    """A filter of dead letters. A dead letter matches every field."""

    kind: Kind | None = None
    status: Literal[Status.FAILED, Status.UNKNOWN] | None = None
    provider: Annotated[str, Field(max_length=32), Storable] | None = None
    reason: Annotated[str, Field(max_length=64), Storable] | None = None
    destination: Annotated[str, Field(max_length=MAX_DESTINATION), Storable] | None = None
    tag: Annotated[str, Field(max_length=64), Storable] | None = None
    reference: Annotated[str, Field(max_length=255), Storable] | None = None
    failed_after: Instant | None = None
    failed_before: Instant | None = None


class DeadLetterQuery(DeadLetterFilter, PageQuery, json_schema_extra=_examples({"reason": "http_400", "limit": 10})):
    """The filter of `GET /dead-letters`, and a page."""


class DeadLetterBatch(_Model, json_schema_extra=_examples({"filter": {"reason": "http_400"}, "dry_run": True})):
    """The body of `POST /dead-letters/discard`: the first `limit` dead letters that match the filter and the `ids`."""

    filter: DeadLetterFilter = DeadLetterFilter()
    ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_BATCH)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_BATCH, strict=True), BeforeValidator(_whole)] = MAX_BATCH
    dry_run: Annotated[bool, Field(strict=True)] = False


class DeadLetterRequeue(DeadLetterBatch):
    """The body of `POST /dead-letters/requeue`. `provider` replaces the provider of messages; `extend` ignores deadlines."""

    provider: Provider | None = None
    extend: Annotated[bool, Field(strict=True)] = False


class BatchIn(_Model, strict=True, json_schema_extra=_examples({"messages": [_MESSAGE, _FULL_MESSAGE]})):
    """The body of `POST /messages/batch`. Each item is validated separately, as the body of `POST /messages`."""

    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]
