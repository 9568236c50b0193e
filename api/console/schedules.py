"""The page of recurring reports: schedules, their next and last runs, and the forms that create and delete one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS
from api.callers import caller_of
from api.console.pages import Pages, see_other
from api.problems import Problem
from api.requests import validated
from api.schedule_models import MAX_CRON, NAME, ScheduleIn
from api.schedules import Schedules, may_see, no_schedule
from infra.keys import Scope
from infra.postgres.schedules import Schedule

PATH = "/console/reports/schedules"
ROWS = 500  # of all clients, for admins
_TEXTS = ("name", "cron", "timezone", "from", "to", "user_ids", "order", "limit", "histogram", "callback_url")
_EMPTY = dict.fromkeys(_TEXTS, "") | {"timezone": "UTC"}


@dataclass(frozen=True, slots=True)
class SchedulePages:
    """The endpoints of schedules. They validate and store as the API does."""

    pages: Pages
    schedules: Schedules

    async def show(self, request: Request) -> Response:
        return await self._page(request)

    async def create(self, request: Request) -> Response:
        """Create a schedule. A repeated form creates no second one; an invalid form is shown again with its faults."""
        form = await _texts(request)
        try:
            wanted = validated(_fields(form), ScheduleIn)
            await self.schedules.create(caller_of(request).client_id, wanted)
        except Problem as problem:
            faults = [f"{_field(error.pointer)}: {error.detail}" for error in problem.errors] or [problem.detail]
            return await self._page(request, problem.status, form=form, faults=faults)
        return see_other(PATH)

    async def delete(self, request: Request) -> Response:
        """Delete a schedule: of the own client, for admins of every client. A repeated form gets a 404 page."""
        form = await request.form()
        client_id, name = str(form.get("client", "")), str(form.get("schedule", ""))
        if not may_see(caller_of(request), client_id):
            raise no_schedule(client_id, name)
        await self.schedules.delete(client_id, name)
        return see_other(PATH)

    async def _page(
        self, request: Request, status: int = 200, *, form: Mapping[str, str] = _EMPTY, faults: list[str] | None = None
    ) -> Response:
        caller = caller_of(request)
        client_id = None if caller.may(Scope.ADMIN) else caller.client_id
        rows = await self.schedules.store.read(client_id, ROWS + 1, READ_SECONDS)
        limits: dict[str, Any] = {"max_cron": MAX_CRON, "name_pattern": NAME.pattern, "most": ROWS}
        shown = [(row, _summary(row)) for row in rows[:ROWS]]
        return self.pages.show(
            request,
            "schedules.html",
            status,
            schedules=shown,
            is_cut=len(rows) > ROWS,
            all=client_id is None,
            form=form,
            faults=faults or [],
            **limits,
        )


async def _texts(request: Request) -> dict[str, str]:
    form = await request.form()
    return {name: str(form.get(name, "")).strip() for name in _TEXTS}


def _fields(form: Mapping[str, str]) -> dict[str, Any]:
    """The body of the API's request. Empty inputs are left out; instants of the form are in UTC."""
    given = {name: text for name, text in form.items() if text}
    report: dict[str, Any] = {name: given[name] for name in ("order", "histogram", "callback_url") if name in given}
    report |= {name: _instant(given[name]) for name in ("from", "to") if name in given}
    if "limit" in given:
        report["limit"] = _number(given["limit"])
    if "user_ids" in given:
        report["user_ids"] = [_number(part) for part in given["user_ids"].replace(",", " ").split()]
    schedule: dict[str, Any] = {name: given[name] for name in ("name", "timezone") if name in given}
    return {"cron": form["cron"], "report": report, **schedule}


def _field(pointer: str) -> str:
    """The input of a field, for example `user_ids/1`: the second user id."""
    return pointer.removeprefix("/report").removeprefix("/")


def _instant(text: str) -> str:
    """The value of an input of the type datetime-local, whose seconds are optional, in RFC 3339."""
    return f"{text}:00Z" if len(text) == len("2026-01-01T00:00") else f"{text}Z"


def _number(text: str) -> int | str:
    """A number; the text itself if it is none, which the model names."""
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < 12 else text


def _summary(schedule: Schedule) -> str:
    """The parameters that differ from their defaults, in words."""
    chosen = schedule.parameters
    parts = [
        f"posts from {chosen.start:%Y-%m-%d %H:%M}" if chosen.start else "",
        f"posts before {chosen.end:%Y-%m-%d %H:%M}" if chosen.end else "",
        f"{len(chosen.user_ids):,} users" if chosen.user_ids else "",
        f"top {chosen.limit:,}" if chosen.limit else "",
        "most words first" if chosen.order == "words" else "",
        "histogram" if chosen.histogram else "",
    ]
    return ", ".join(filter(None, parts)) or "all posts"
