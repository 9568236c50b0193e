"""The schedules of recurring reports: create, list, show, delete. The console calls the same use case."""

from dataclasses import dataclass

import structlog
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, as_json
from api.callers import Caller, caller_of
from api.jobs import BASES
from api.problems import Problem, not_found
from api.requests import read_model, read_query
from api.schedule_models import NAME, ScheduleIn, ScheduleQuery
from api.shapes import ScheduledReportOut, ScheduleListOut, ScheduleOut
from api.submissions import Submissions
from infra.keys import Scope
from infra.postgres.schedules import MOST, NameTaken, NewSchedule, Schedule, ScheduleStore, TooMany
from jobs.model import Kind
from service.cron import next_instant

log = structlog.get_logger()

SCHEDULES = "/api/2.0/report/schedules"
CALL_SECONDS = 5.0


class _ScheduleName(StringConvertor):
    """`{name:schedule}` in a path. No schedule has another name, so other names are a 404."""

    regex = NAME.pattern


register_url_convertor("schedule", _ScheduleName())


@dataclass(frozen=True, slots=True)
class Schedules:
    """Creates and deletes schedules. `submissions` checks their callback URLs."""

    store: ScheduleStore
    submissions: Submissions

    async def create(self, client_id: str, wanted: ScheduleIn) -> tuple[Schedule, bool]:
        """Store a schedule; an equal one under its name is returned, with False.

        Raises a 422 problem of the callback URL, and 409 problems: the name is taken, or the client has too many schedules.
        """
        self.submissions.check_callback_url(wanted.report.callback_url, "/report/callback_url")
        new = NewSchedule(
            client_id=client_id,
            name=wanted.stored_name(),
            cron=wanted.cron,
            timezone=wanted.timezone,
            parameters=wanted.report.parameters(),
            callback_url=wanted.report.callback_url,
            default_callback=wanted.has_default_callback,
            next_at=next_instant(wanted.cron, wanted.timezone, await self.store.clock(READ_SECONDS)),
        )
        try:
            schedule, is_new = await self.store.create(new, CALL_SECONDS)
        except NameTaken as error:
            detail = f"The client has another schedule {new.name}. Delete it first, or choose another name."
            raise Problem(409, "name_taken", detail) from error
        except TooMany as error:
            raise Problem(409, "too_many_schedules", f"A client may have {MOST} schedules.") from error
        if is_new:
            log.info("schedule.created", client=client_id, schedule=new.name, next_at=schedule.next_at)
        return schedule, is_new

    async def delete(self, client_id: str, name: str) -> None:
        """Delete a schedule; its reports stay. Raises a 404 problem."""
        if not await self.store.delete(client_id, name, CALL_SECONDS):
            raise no_schedule(client_id, name)
        log.info("schedule.deleted", client=client_id, schedule=name)


@dataclass(frozen=True, slots=True)
class ScheduleEndpoints:
    """The endpoints. Admins name the client of a schedule by `?client=`."""

    schedules: Schedules

    async def post(self, request: Request) -> Response:
        """Create a schedule. 201: it is new, 200: an equal request created it before."""
        wanted = await read_model(request, ScheduleIn)
        schedule, is_new = await self.schedules.create(caller_of(request).client_id, wanted)
        answer = schedule_out(schedule)
        return as_json(answer, 201 if is_new else 200, {"Location": answer["links"]["self"]})

    async def list(self, request: Request) -> Response:
        rows = await self.schedules.store.read(_client(request), MOST, READ_SECONDS)
        answer: ScheduleListOut = {"data": [schedule_out(row) for row in rows]}
        return as_json(answer)

    async def show(self, request: Request) -> Response:
        client_id, name = _client(request), request.path_params["name"]
        schedule = await self.schedules.store.find(client_id, name, READ_SECONDS)
        if schedule is None:
            raise no_schedule(client_id, name)
        return as_json(schedule_out(schedule))

    async def delete(self, request: Request) -> Response:
        await self.schedules.delete(_client(request), request.path_params["name"])
        return Response(status_code=204)


def no_schedule(client_id: str, name: str) -> Problem:
    return not_found(f"The client {client_id} has no schedule {name}.")


def may_see(caller: Caller, client_id: str) -> bool:
    return client_id == caller.client_id or caller.may(Scope.ADMIN)


def _client(request: Request) -> str:
    """The client in the query, else the caller's. Raises a 403 problem."""
    caller = caller_of(request)
    client_id = read_query(request, ScheduleQuery).client or caller.client_id
    if not may_see(caller, client_id):
        raise Problem(403, "forbidden", f"This key lacks the scope {Scope.ADMIN}. It reads its own client's schedules only.")
    return client_id


def schedule_out(schedule: Schedule) -> ScheduleOut:
    """The schedule as its client sees it."""
    job = None if schedule.last_id is None else f"{BASES[Kind.REPORT]}/{schedule.last_id}"
    return {
        "client": schedule.client_id,
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "report": _report(schedule),
        "created_at": schedule.created_at,
        "next_at": schedule.next_at,
        "active": schedule.active,
        "last_at": schedule.last_at,
        "last_job": schedule.last_id,
        "last_status": schedule.last_status,
        "links": {"self": f"{SCHEDULES}/{schedule.name}", **({} if job is None else {"last_job": job})},
    }


def _report(schedule: Schedule) -> ScheduledReportOut:
    chosen = schedule.parameters
    report: ScheduledReportOut = {
        "from": chosen.start,
        "to": chosen.end,
        "user_ids": None if chosen.user_ids is None else [*chosen.user_ids],
        "order": chosen.order,
        "limit": chosen.limit,
        "histogram": "words" if chosen.histogram else None,
    }
    return report if schedule.default_callback else {**report, "callback_url": schedule.callback_url}
