"""What the OpenAPI document cannot say, told to schemathesis: values that only their own list, or nobody, has seen before."""

from datetime import datetime
from typing import Any
from uuid import uuid4

import schemathesis
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from api.answers import cursor_for
from api.models import Instant

CRONS = ["0 6 * * *", "*/5 * * * MON-FRI", "0 0 29 2 *"]
URLS = ["https://example.com", "https://example.com/hook?x=%20", "https://8.8.8.8:8443/"]

schemathesis.openapi.format("uri", st.sampled_from(URLS))
schemathesis.openapi.format("idempotency-key", st.builds(lambda: str(uuid4())))  # each names one request
schemathesis.openapi.format("cron", st.sampled_from(CRONS))
schemathesis.openapi.format("timezone", st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia"]))
schemathesis.openapi.format("cursor", st.just(cursor_for("0190163d-8694-739b-aea5-966c26f8ad91")))
schemathesis.openapi.format("result-cursor", st.just(cursor_for("1")))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Replace a well-formed idempotency key by a new one: a repeated key with another body is refused.

    The document cannot exclude two fields together: a format without pages and a page, a period and an end before its start.
    """
    key = case.headers.get("Idempotency-Key", "") if case.headers else ""
    if 0 < len(key) <= 255 and all("!" <= character <= "~" for character in key):
        case.headers["Idempotency-Key"] = str(uuid4())
    if case.query and case.query.get("format") in ("parquet", "arrow") and {"limit", "cursor"} & case.query.keys():
        case.query["format"] = "csv"
    for period in (case.body, case.body.get("report")) if isinstance(case.body, dict) else ():
        _order(period)


def _order(period: Any) -> None:
    """Drop the end of a period that does not follow its start."""
    if not isinstance(period, dict):
        return
    start, end = _instant(period.get("from")), _instant(period.get("to"))
    if start is not None and end is not None and end <= start:
        del period["to"]


def _instant(text: object) -> datetime | None:
    try:
        return TypeAdapter(Instant).validate_python(text)
    except ValidationError:
        return None
