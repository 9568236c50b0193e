"""Every operation of the API in one table: what it does, who may, what it reads and answers. A test holds it to the routes."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from api import models, shapes
from infra.keys import Scope

JOBS = "/api/2.0/report/jobs"
_READ, _WRITE, _REPORTS, _DEAD = Scope.MESSAGES_READ, Scope.MESSAGES_WRITE, Scope.REPORTS, Scope.DEAD_LETTERS


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: what it does, who may, what it reads, what it answers (by status), and which problems it has."""

    method: str
    path: str
    summary: str
    scope: Scope | None
    answers: dict[int, type[BaseModel] | str | None]
    problems: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    query: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()  # that it heeds
    gives: tuple[str, ...] = ()  # headers of its good answers

    @property
    def name(self) -> str:
        words = [word.strip("{}") for word in self.path.replace(".", "_").replace("-", "_").split("/") if word]
        return "_".join([self.method.lower(), *words])


_BODY_PROBLEMS = (400, 408, 413, 415, 422)
_KEYED = ("Idempotency-Key",)
_ACCEPTED = ("Location", "Idempotent-Replayed")
_WAITED = ("Prefer", "If-None-Match")
_VERSIONED = ("ETag", "Preference-Applied")
_EVENTS = "text/event-stream"


def _job(path: str, kind: str, scope: Scope) -> list[Operation]:
    """What every kind of job can be asked."""
    shared: dict[str, Any] = {"scope": scope, "problems": (404, 503)}
    waited: dict[str, Any] = {"scope": scope, "headers": _WAITED, "gives": _VERSIONED, "problems": (404, 429, 503)}
    status: dict[int, Any] = {200: shapes.StatusOut, 304: None}
    streams: dict[str, Any] = {"headers": ("Last-Event-ID",), "scope": scope, "problems": (404, 429, 503)}
    return [
        Operation("GET", f"{path}/{{id}}/status", f"What became of a {kind}", answers=status, **waited),
        Operation("GET", f"{path}/{{id}}/events", "Each change as it happens", answers={200: _EVENTS, 204: None}, **streams),
        Operation("GET", f"{path}/{{id}}/attempts", "What each attempt came to", answers={200: shapes.AttemptsOut}, **shared),
        Operation("GET", f"{path}/{{id}}/callbacks", "How it was told", answers={200: shapes.CallbacksOut}, **shared),
    ]


OPERATIONS: list[Operation] = [
    Operation(
        "POST", "/messages", "Accept a message", _WRITE, {202: shapes.AcceptedOut}, (*_BODY_PROBLEMS, 503), models.MessageIn,
        headers=_KEYED, gives=_ACCEPTED,
    ),
    Operation(
        "GET", "/messages", "List messages, newest first", _READ, {200: shapes.MessageListOut}, (422, 503),
        query=models.MessageQuery,
    ),
    Operation(
        "POST", "/messages/batch", "Accept up to 1,000 messages, each judged by itself", _WRITE, {202: shapes.BatchOut},
        (*_BODY_PROBLEMS, 503), models.BatchIn, headers=_KEYED, gives=("Idempotent-Replayed",),
    ),
    Operation(
        "GET", "/messages/{id}", "A message's record", _READ, {200: shapes.MessageOut, 304: None}, (404, 429, 503),
        headers=_WAITED, gives=_VERSIONED,
    ),
    *_job("/messages", "message", _READ),
    Operation(
        "GET", "/message/{id}/status", "What became of a message", _READ, {200: shapes.StatusOut, 304: None}, (404, 429, 503),
        headers=_WAITED, gives=_VERSIONED,
    ),
    Operation(
        "GET", "/api/1.0/report/posts", "Total words per user, counted within the request", _REPORTS,
        {200: shapes.TotalsOut}, (503,),
    ),
    Operation(
        "POST", "/api/2.0/report/posts", "The same as a job", _REPORTS, {202: shapes.ReportAcceptedOut}, (*_BODY_PROBLEMS, 503),
        models.ReportIn, body_required=False, headers=_KEYED, gives=_ACCEPTED,
    ),
    Operation(
        "GET", JOBS, "List reports, newest first", _REPORTS, {200: shapes.ReportListOut}, (422, 503), query=models.PageQuery
    ),
    Operation(
        "GET", f"{JOBS}/{{id}}", "A report's state, with its progress", _REPORTS, {200: shapes.ReportOut, 304: None},
        (404, 429, 503), headers=_WAITED, gives=_VERSIONED,
    ),
    *_job(JOBS, "report", _REPORTS),
    Operation(
        "GET", f"{JOBS}/{{id}}/result", "A completed report's totals, whole or a page of them", _REPORTS,
        {200: shapes.TotalsOut}, (404, 406, 409, 422, 503), query=models.ResultQuery,
    ),
    Operation(
        "GET", "/dead-letters", "List failed and unknown jobs", _DEAD, {200: shapes.DeadLetterListOut}, (422, 503),
        query=models.DeadLetterQuery,
    ),
    Operation(
        "POST", "/dead-letters/requeue", "Queue dead letters anew", _DEAD, {200: shapes.RequeuedOut}, (*_BODY_PROBLEMS, 503),
        models.DeadLetterRequeue,
    ),
    Operation(
        "POST", "/dead-letters/discard", "End dead letters for good", _DEAD, {200: shapes.DiscardedOut},
        (*_BODY_PROBLEMS, 503), models.DeadLetterBatch,
    ),
    Operation("GET", "/health/live", "Whether this process answers", None, {200: shapes.LiveOut}),
    Operation(
        "GET", "/health/ready", "Whether a message would be accepted now", None, {200: shapes.ReadyOut, 503: shapes.ReadyOut}
    ),
    Operation("GET", "/version", "Which release this is", None, {200: shapes.VersionOut}),
    Operation("GET", "/openapi.json", "This document", None, {200: "application/json"}),
    Operation("GET", "/docs", "This document, to be read", None, {200: "text/html"}),
]  # fmt: skip
