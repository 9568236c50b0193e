"""The one table of operations. Starlette's routes, their guards and the OpenAPI document derive from it."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from api import models, schedule_models, shapes
from api.callers import Access, Endpoint
from api.dead_letters import DeadLetterEndpoints
from api.documents import DocumentEndpoints
from api.health import HealthEndpoints
from api.messages import MessageEndpoints
from api.reports import JOBS, ReportEndpoints
from api.result_formats import BY_MEDIA_TYPE
from api.schedules import SCHEDULES, ScheduleEndpoints
from infra.keys import Scope


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of one process, by their nouns."""

    messages: MessageEndpoints
    reports: ReportEndpoints
    schedules: ScheduleEndpoints
    dead_letters: DeadLetterEndpoints
    health: HealthEndpoints
    documents: DocumentEndpoints


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `answers` are JSON shapes or media types by status; None: no content. Without a scope it needs no key."""

    method: str
    path: str
    summary: str
    endpoint: Callable[[Endpoints], Endpoint]
    scope: Scope | None
    answers: dict[int, type | str | None]
    body: type[BaseModel] | None = None
    body_required: bool = True
    query: type[BaseModel] | None = None
    media_types: tuple[str, ...] = ()  # of the first answer, besides JSON
    headers: tuple[str, ...] = ()  # of requests
    answer_headers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        words = [word.strip("{}") for word in self.path.replace(".", "_").replace("-", "_").split("/") if word]
        return "_".join([self.method.lower(), *(words or ["root"])])

    @property
    def tag(self) -> str:
        """The operation's group in the document."""
        return "Service" if self.scope is None else self.scope.partition(":")[0].replace("-", " ").capitalize()

    def route(self, endpoints: Endpoints, access: Access) -> Route:
        """The operation's route. Its guard requires the scope."""
        endpoint = self.endpoint(endpoints)
        guarded = endpoint if self.scope is None else access.guard(endpoint, self.scope)
        application = OperationApplication(guarded, self.path)
        path = self.path.replace("{id}", "{id:job}").replace("{name}", "{name:schedule}")
        return Route(path, application, methods=[self.method], name=self.name)


@dataclass(frozen=True, slots=True)
class OperationApplication:
    """An endpoint as an ASGI application. Starlette's own wraps it in a second handler of exceptions.

    `path`: the template of its route, for logs.
    """

    endpoint: Endpoint
    path: str

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


_READ, _WRITE, _REPORTS, _DEAD = Scope.MESSAGES_READ, Scope.MESSAGES_WRITE, Scope.REPORTS, Scope.DEAD_LETTERS
_KEYED = ("Idempotency-Key",)
_ACCEPTED = ("Location", "Idempotent-Replayed")
_WAIT = ("Prefer", "If-None-Match")
_VERSIONED = ("ETag", "Preference-Applied")
_FILES = tuple(media_type for media_type in BY_MEDIA_TYPE if media_type != "application/json")
_CACHED = ("If-None-Match",)
_OF_FILES = ("ETag", "Repr-Digest", "Content-Disposition")
_STATUS: dict[int, type | str | None] = {200: shapes.StatusOut, 304: None}
_EVENTS: dict[int, type | str | None] = {200: "text/event-stream", 204: None}

FREQUENT = frozenset({"post_messages", "get_message_id_status"})
# Starlette tries the routes in this order, so frequent operations come first.
OPERATIONS: list[Operation] = [
    Operation("POST", "/messages", "Accept a message", lambda to: to.messages.post, _WRITE, {202: shapes.AcceptedOut},
              body=models.MessageIn, headers=_KEYED, answer_headers=_ACCEPTED),
    Operation("GET", "/message/{id}/status", "A message's status", lambda to: to.messages.status, _READ, _STATUS,
              headers=_WAIT, answer_headers=_VERSIONED),
    Operation("GET", "/messages/{id}/status", "A message's status", lambda to: to.messages.status, _READ, _STATUS,
              headers=_WAIT, answer_headers=_VERSIONED),
    Operation("GET", "/messages", "List messages, newest first", lambda to: to.messages.list, _READ,
              {200: shapes.MessageListOut}, query=models.MessageQuery),
    Operation("POST", "/messages/batch", "Accept up to 1,000 messages, each validated separately",
              lambda to: to.messages.post_batch, _WRITE, {202: shapes.BatchOut}, body=models.BatchIn,
              headers=_KEYED, answer_headers=("Idempotent-Replayed",)),
    Operation("GET", "/messages/{id}", "A message's record", lambda to: to.messages.record, _READ,
              {200: shapes.MessageOut, 304: None}, headers=_WAIT, answer_headers=_VERSIONED),
    Operation("GET", "/messages/{id}/events", "Each status change, live", lambda to: to.messages.events, _READ, _EVENTS,
              headers=("Last-Event-ID",)),
    Operation("GET", "/messages/{id}/attempts", "A message's attempts", lambda to: to.messages.attempts, _READ,
              {200: shapes.AttemptsOut}),
    Operation("GET", "/messages/{id}/callbacks", "A message's callbacks", lambda to: to.messages.callbacks, _READ,
              {200: shapes.CallbacksOut}),
    Operation("GET", "/api/1.0/report/posts", "Total words per user, counted within the request",
              lambda to: to.reports.report, _REPORTS, {200: shapes.TotalsOut}),
    Operation("POST", "/api/2.0/report/posts", "Accept the same report as a job", lambda to: to.reports.post, _REPORTS,
              {202: shapes.ReportAcceptedOut}, body=models.ReportIn, body_required=False,
              headers=_KEYED, answer_headers=_ACCEPTED),
    Operation("GET", JOBS, "List reports, newest first", lambda to: to.reports.list, _REPORTS,
              {200: shapes.ReportListOut}, query=models.PageQuery),
    Operation("GET", f"{JOBS}/{{id}}", "A report's state, with its progress", lambda to: to.reports.record, _REPORTS,
              {200: shapes.ReportOut, 304: None}, headers=_WAIT, answer_headers=_VERSIONED),
    Operation("GET", f"{JOBS}/{{id}}/status", "A report's status", lambda to: to.reports.status, _REPORTS, _STATUS,
              headers=_WAIT, answer_headers=_VERSIONED),
    Operation("GET", f"{JOBS}/{{id}}/events", "Each status change and progress, live", lambda to: to.reports.events,
              _REPORTS, _EVENTS, headers=("Last-Event-ID",)),
    Operation("GET", f"{JOBS}/{{id}}/attempts", "A report's attempts", lambda to: to.reports.attempts, _REPORTS,
              {200: shapes.AttemptsOut}),
    Operation("GET", f"{JOBS}/{{id}}/callbacks", "A report's callbacks", lambda to: to.reports.callbacks, _REPORTS,
              {200: shapes.CallbacksOut}),
    Operation("GET", f"{JOBS}/{{id}}/result", "A completed report's totals, whole or one page",
              lambda to: to.reports.result, _REPORTS, {200: shapes.ResultOut, 304: None}, query=models.ResultQuery,
              media_types=_FILES, headers=_CACHED, answer_headers=(*_OF_FILES, "Link")),
    Operation("GET", f"{JOBS}/{{id}}/histogram", "A completed report's posts by their number of words",
              lambda to: to.reports.histogram, _REPORTS, {200: shapes.HistogramOut, 304: None}, query=models.HistogramQuery,
              media_types=_FILES, headers=_CACHED, answer_headers=_OF_FILES),
    Operation("POST", SCHEDULES, "Schedule a recurring report", lambda to: to.schedules.post, _REPORTS,
              {201: shapes.ScheduleOut, 200: shapes.ScheduleOut}, body=schedule_models.ScheduleIn,
              answer_headers=("Location",)),
    Operation("GET", SCHEDULES, "List schedules, by name", lambda to: to.schedules.list, _REPORTS,
              {200: shapes.ScheduleListOut}, query=schedule_models.ScheduleQuery),
    Operation("GET", f"{SCHEDULES}/{{name}}", "A schedule", lambda to: to.schedules.show, _REPORTS,
              {200: shapes.ScheduleOut}, query=schedule_models.ScheduleQuery),
    Operation("DELETE", f"{SCHEDULES}/{{name}}", "Delete a schedule; its reports stay", lambda to: to.schedules.delete,
              _REPORTS, {204: None}, query=schedule_models.ScheduleQuery),
    Operation("GET", "/dead-letters", "List failed and unknown jobs", lambda to: to.dead_letters.list, _DEAD,
              {200: shapes.DeadLetterListOut}, query=models.DeadLetterQuery),
    Operation("POST", "/dead-letters/requeue", "Requeue dead letters", lambda to: to.dead_letters.requeue, _DEAD,
              {200: shapes.RequeuedOut}, body=models.DeadLetterRequeue),
    Operation("POST", "/dead-letters/discard", "Discard dead letters", lambda to: to.dead_letters.discard, _DEAD,
              {200: shapes.DiscardedOut}, body=models.DeadLetterBatch),
    Operation("GET", "/health/live", "Whether this process answers", lambda to: to.health.live, None, {200: shapes.LiveOut}),
    Operation("GET", "/health/ready", "Whether the API accepts messages now", lambda to: to.health.ready, None,
              {200: shapes.ReadyOut, 503: shapes.ReadyOut}),
    Operation("GET", "/version", "The release", lambda to: to.health.version, None, {200: shapes.VersionOut}),
    Operation("GET", "/metrics", "Metrics, as text or OpenMetrics", lambda to: to.health.metrics, None, {200: "text/plain"}),
    Operation("GET", "/openapi.json", "The OpenAPI document", lambda to: to.documents.openapi, None, {200: "application/json"}),
    Operation("GET", "/docs", "The OpenAPI document as a page", lambda to: to.documents.docs, None, {200: "text/html"}),
]  # fmt: skip
