"""The request models of recurring reports."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated

import orjson
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from api.models import ReportIn, Storable
from infra.keys import CLIENT_NAME
from service.cron import UnknownZone, UnusableCron, next_instant, zone_named

MAX_CRON = 100  # characters
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_EXAMPLES = [{"name": "nightly", "cron": "0 6 * * *", "timezone": "Europe/Berlin", "report": {"order": "words", "limit": 10}}]


def _matching(value: str) -> str:
    """An expression that matches a date in the future, with single blanks. Time zones do not decide that."""
    try:
        next_instant(value, "UTC", datetime.now(UTC))
    except UnusableCron as error:
        raise PydanticCustomError("unusable_cron", "{why}", {"why": str(error)}) from error
    return " ".join(value.split())


def _known(value: str) -> str:
    try:
        zone_named(value)
    except UnknownZone as error:
        raise PydanticCustomError("unknown_value", "must be a name of the IANA time zone database") from error
    return value


Cron = Annotated[str, Field(max_length=MAX_CRON, json_schema_extra={"format": "cron"}), Storable, AfterValidator(_matching)]
Zone = Annotated[str, Field(max_length=64, json_schema_extra={"format": "timezone"}), Storable, AfterValidator(_known)]
Name = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]


class ScheduleIn(BaseModel, extra="forbid", frozen=True, strict=True, json_schema_extra={"examples": _EXAMPLES}):
    """The body of `POST /api/2.0/report/schedules`. Without a name, equal fields make an equal name."""

    name: Name | None = None
    cron: Cron
    timezone: Zone = "UTC"
    report: ReportIn = ReportIn()

    def stored_name(self) -> str:
        """The name, else one from the other fields: a repeated request creates no second schedule."""
        if self.name is not None:
            return self.name
        fields = self.model_dump(exclude_defaults=True, by_alias=True)
        canonical = orjson.dumps([fields, self.has_default_callback], option=orjson.OPT_SORT_KEYS)
        return f"report-{hashlib.sha256(canonical).hexdigest()[:8]}"

    @property
    def has_default_callback(self) -> bool:
        """Whether the report names no callback URL, not even null."""
        return "callback_url" not in self.report.model_fields_set


class ScheduleQuery(BaseModel, extra="forbid", frozen=True, json_schema_extra={"examples": [{}]}):
    """The client of the schedules. Another client than the key's needs the scope `admin`."""

    client: Annotated[str, StringConstraints(pattern=f"^{CLIENT_NAME.pattern}$")] | None = None
