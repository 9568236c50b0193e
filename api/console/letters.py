"""The filter of dead letters in the console: read from a query or a form, and written into links and hidden fields."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request

from api.dead_letters import filter_of
from api.models import DeadLetterFilter
from api.requests import validated
from infra.postgres.dead_letters import Filter

_LOCAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?")  # as browsers send `datetime-local`


class LetterQuery(DeadLetterFilter):
    """The fields of the filter. `id`: only this letter."""

    id: UUID | None = None


def read_letters(request: Request, fields: Mapping[str, str]) -> Filter:
    """The filter of a request, within the viewer's clients. Empty fields match all. Raises a 422 problem."""
    known = {name: value.strip() for name, value in fields.items() if name in LetterQuery.model_fields and value.strip()}
    for name in ("failed_after", "failed_before"):
        if _LOCAL.fullmatch(known.get(name, "")):
            known[name] = as_utc(known[name])
    query = validated(known, LetterQuery)
    return filter_of(request, query, [query.id] if query.id else None)


def as_utc(local: str) -> str:
    """An instant without an offset, which the console's forms have in UTC."""
    return f"{local}{':00' if len(local) == 16 else ''}Z"


def as_fields(filter_: Filter) -> dict[str, str]:
    """The fields that `read_letters` reads. The client is the viewer's, and never a field."""
    fields = {name: getattr(filter_, name) for name in DeadLetterFilter.model_fields}
    fields |= {"id": filter_.ids[0] if filter_.ids else None}
    return {name: _text(value) for name, value in fields.items() if value is not None}


def as_query(filter_: Filter, **others: str) -> str:
    """The filter as a query string."""
    return urlencode(as_fields(filter_) | others)


def _text(value: object) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
