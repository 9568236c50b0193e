"""The page of messages: a filter, its results newest first, and the way to a message by its id."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS
from api.console.pages import Pages, is_fragment, see_other, viewer_of
from api.models import MAX_DESTINATION, Provider, Reference, Storable, Tag
from api.problems import Problem, not_found
from api.requests import read_query
from infra.keys import Scope
from infra.postgres.job_reads import BEHIND_ALL
from infra.postgres.message_search import Count, FoundPage, MessageFilter, MessageSearch
from jobs.lifecycle import Status

PATH = "/console/messages"
PAGE = 50  # messages
COUNT_SECONDS = 5.0  # a count of the same filter is not repeated for so long
_COUNTS = 200  # remembered ones
_FORM = "must be an instant in UTC like 2026-11-22T04:00"


def _in_utc(value: str) -> datetime:
    """The value of an input of the type datetime-local, which has no zone."""
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise PydanticCustomError("wrong_format", _FORM) from error
    if at.tzinfo is not None:
        raise PydanticCustomError("wrong_format", _FORM)
    return at.replace(tzinfo=UTC)


Local = Annotated[datetime, BeforeValidator(_in_utc)]
Id = Annotated[str, Field(max_length=100), AfterValidator(str.strip)]


class SearchQuery(BaseModel, extra="ignore", frozen=True):
    """The fields of the form. Empty fields are left out."""

    id: Id | None = None
    status: Status | None = None
    destination: Annotated[str, Field(max_length=MAX_DESTINATION), Storable] | None = None
    tag: Tag | None = None
    reference: Reference | None = None
    provider: Provider | None = None
    client: Annotated[str, Field(max_length=64), Storable] | None = None
    after: Local | None = None
    before: Local | None = None
    cursor: UUID | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value != ""}


@dataclass(eq=False)
class Search:
    """The endpoint. `providers` are the configured ones. Viewers with the same filter share a count."""

    pages: Pages
    search: MessageSearch
    providers: list[str]
    _counts: dict[MessageFilter, tuple[float, Count | None]] = field(default_factory=dict, init=False)

    async def show(self, request: Request) -> Response:
        """The page; for htmx, its results. Fields that are not valid are named, and nothing is searched."""
        try:
            query = read_query(request, SearchQuery)
        except Problem as problem:
            faults = {error.pointer.removeprefix("?"): error.detail for error in problem.errors}
            return self._answer(request, problem.status, {}, faults=faults, results=None, found="", older=None, newest=None)
        if query.id is not None:
            return _by_id(request, query.id)
        is_admin = viewer_of(request).may(Scope.ADMIN)
        filter_ = _filter(query, query.client if is_admin else viewer_of(request).caller.client_id)
        page = await self.search.page(filter_, query.cursor or BEHIND_ALL, PAGE, READ_SECONDS)
        parameters = [(name, value) for name, value in request.query_params.multi_items() if value and name != "cursor"]
        older = None if page.next_before is None else _path([*parameters, ("cursor", str(page.next_before))])
        newest = None if query.cursor is None else _path(parameters)
        found = "Older messages" if query.cursor is not None else _found(page, await self._count(filter_))
        here = _path([*parameters, *([("cursor", str(query.cursor))] if query.cursor else [])])
        headers = {"HX-Push-Url": here} if is_fragment(request) else {}
        return self._answer(request, 200, headers, faults={}, results=page, found=found, older=older, newest=newest)

    def _answer(self, request: Request, status: int, headers: Mapping[str, str], **values: Any) -> Response:
        return self.pages.show(
            request,
            "messages.html",
            status,
            headers=headers,
            block="results" if is_fragment(request) else None,
            is_part=is_fragment(request),
            statuses=[each.value for each in Status],
            providers=self.providers,
            query=request.query_params,
            **values,
        )

    async def _count(self, filter_: MessageFilter) -> Count | None:
        now = time.monotonic()
        known = self._counts.get(filter_)
        if known is not None and known[0] > now:
            return known[1]
        count = await self.search.count(filter_, READ_SECONDS)
        self._counts.pop(filter_, None)
        self._counts[filter_] = now + COUNT_SECONDS, count
        if len(self._counts) > _COUNTS:
            del self._counts[next(iter(self._counts))]
        return count


def _filter(query: SearchQuery, client_id: str | None) -> MessageFilter:
    names = ("status", "destination", "tag", "reference", "provider")
    fields = {name: getattr(query, name) for name in names}
    return MessageFilter(client_id, **fields, accepted_after=query.after, accepted_before=query.before)


def _found(page: FoundPage, count: Count | None) -> str:
    """The number of results in words."""
    if not page.messages:
        return "No match so far" if page.searched else "No messages"
    if count is None:
        return "Newest first"
    if count.is_exact:
        return "1 message" if count.number == 1 else f"{count.number:,} messages, newest first"
    return f"{count.number:,}+ messages, newest first"


def _by_id(request: Request, text: str) -> Response:
    """Lead to the page of a message."""
    try:
        id_ = UUID(text)
    except ValueError as error:
        raise _no_id() from error
    if id_.version != 7:
        raise _no_id()
    path = f"{PATH}/{id_}"
    return Response(headers={"HX-Redirect": path}) if is_fragment(request) else see_other(path)


def _no_id() -> Problem:
    return not_found("This is not the id of a message. Ids look like 01a2279b-e59e-7179-8321-d8a2e1a01509.")


def _path(parameters: list[tuple[str, str]]) -> str:
    return f"{PATH}?{urlencode(parameters)}" if parameters else PATH
