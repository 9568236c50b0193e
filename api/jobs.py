"""The endpoints that every kind of job has, and their reads that wait.

`Prefer: wait=N` (RFC 7240) answers when the job changes, or after N seconds: with `If-None-Match` for a newer version, without
it for the final status. The ETag of a job's representations is its version.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import orjson
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.answers import READ_SECONDS, as_json, job_id
from api.callers import Caller, caller_of, client_of
from api.event_streams import CompleteEventSource
from api.problems import Problem, not_found, unavailable
from api.shapes import AttemptsOut, CallbacksOut, StatusOut
from infra.errors import Transient
from infra.postgres.job_reads import JobKey, JobReads, JobRow, Progress
from jobs.lifecycle import ENDS, Status
from jobs.model import Kind, KnownStatus
from service.batching import Batcher
from service.statuses import Statuses, Subscription, Subscriptions

MAX_WAIT_SECONDS = 60
PING_SECONDS = 15
PROGRESS_SECONDS = 1.0
SEND_SECONDS = 10.0  # a client that reads more slowly is disconnected
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,9})\"?(?=[,;\s]|$)", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,9})"')

BASES = {Kind.MESSAGE: "/messages", Kind.REPORT: "/api/2.0/report/jobs"}  # no operation shows a callback by itself
Record = TypeVar("Record", bound=JobRow)
ReadProgress = Callable[[Request], Awaitable[Progress | None]]


def no_job(request: Request, kind: Kind) -> Problem:
    """404: the client has no job of this kind with the id in the path. It may have one of the other kind."""
    other = next(each for each in BASES if each is not kind)
    return not_found(f"This client has no {kind} with this id. A {other} has the path {BASES[other]}/{job_id(request)}.")


@dataclass(frozen=True, slots=True)
class Conditions:
    """The seconds of `Prefer: wait`, at most `MAX_WAIT_SECONDS`, and the client's newest version, by `If-None-Match`."""

    wait: int | None = None
    version: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an answer that depends on them."""
        return {"Vary": "Prefer"} | ({} if self.wait is None else {"Preference-Applied": f"wait={self.wait}"})


_UNCONDITIONAL = Conditions()


def read_conditions(request: Request) -> Conditions:
    """The conditions in `Prefer` and `If-None-Match`."""
    if not any(name in (b"prefer", b"if-none-match") for name, _ in request.scope["headers"]):
        return _UNCONDITIONAL
    wait = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    versions = map(int, _ETAG.findall(request.headers.get("if-none-match", "")))
    return Conditions(None if wait is None else min(int(wait[1]), MAX_WAIT_SECONDS), max(versions, default=0))


def versioned(conditions: Conditions, version: int, content: Mapping[str, object]) -> Response:
    """A representation of a job at this version, after the preferred wait; 304 if the client has that version."""
    headers = {"ETag": f'"{version}"', **conditions.headers}
    return Response(status_code=304, headers=headers) if version == conditions.version else as_json(content, headers=headers)


@lru_cache(maxsize=512)
def _status_answer(conditions: Conditions, version: int, status: Status) -> Response:
    """The answer of every job in this status at this version."""
    answer: StatusOut = {"status": status}
    return versioned(conditions, version, answer)


def admit(caller: Caller, most: int) -> None:
    """Raise a 429 problem unless the caller's key may have one more waiting request in this process."""
    if caller.prefix is not None and caller.waiting >= most:
        detail = f"Each key may have {most} waiting or streaming requests per process."
        raise Problem(429, "too_many_waiting", detail, headers={"Retry-After": "1"})


class EventStream(CompleteEventSource):
    """Server-sent events, counted as a waiting request of the caller. Raises as `admit`.

    The count begins here and not with the first event, so concurrent requests do not pass the limit together. It ends with
    the answer, even if the client has left before the first event. A key with streams stays in the keyring, so its
    revocation is noticed.
    """

    def __init__(self, events: AsyncIterator[ServerSentEvent], caller: Caller, most: int):
        admit(caller, most)
        super().__init__(events, ping=PING_SECONDS, send_timeout=SEND_SECONDS, sep="\n")
        self._caller = caller
        caller.waiting += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._caller.waiting -= 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """Reads statuses, and waits for their changes. `max_waiting_per_key` limits the waiting requests in this process."""

    statuses: Statuses
    subscriptions: Subscriptions
    max_waiting_per_key: int

    async def read(self, request: Request, kind: Kind, conditions: Conditions) -> KnownStatus:
        """The status after the preferred wait. Problems: 404 the client has no such job, 429 too many wait, 503 unknown."""
        if conditions.wait is None:
            return await self._read(request, kind, conditions.version)
        return await self._wait(request, kind, conditions.version, conditions.wait)

    def _subscription(self, request: Request) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to the job in the path."""
        caller = caller_of(request)
        return self.subscriptions.subscribe(job_id(request), lambda: caller.usable)

    async def _wait(self, request: Request, kind: Kind, version: int, seconds: float) -> KnownStatus:
        caller, deadline = caller_of(request), time.monotonic() + seconds
        admit(caller, self.max_waiting_per_key)
        caller.waiting += 1
        try:
            # The subscription starts before the read, so a change during the read is not missed.
            async with self._subscription(request) as subscription:
                known = await self._read(request, kind, version)
                while known.status not in ENDS and (known.version == version or not version):
                    newer = await subscription.after(known.version, deadline - time.monotonic())
                    if newer is None:
                        return known
                    known = newer
            return known
        finally:
            caller.waiting -= 1

    async def _read(self, request: Request, kind: Kind, version: int) -> KnownStatus:
        """The status now. The ledger replaces a cache that is older than `version`, which the client has."""
        try:
            known = await self.statuses.read(job_id(request))
            if known is not None and known.version < version:
                known = await self.statuses.read_ledger(known.id)
        except Transient as error:
            raise unavailable("Neither the cache nor the database answers. The status is unknown.") from error
        if known is None or known.client_id != client_of(request) or known.kind is not kind:
            raise no_job(request, kind)
        return known

    async def events(self, request: Request, kind: Kind, read_progress: ReadProgress | None = None) -> Response:
        """Server-sent events: the status now, each newer status until the final one, and progress. Raises as `read`.

        The event id is the version. 204 if `Last-Event-ID` is the final version; browsers do not reconnect after it.
        """
        admit(caller_of(request), self.max_waiting_per_key)  # before the read, which it spares
        last = request.headers.get("last-event-id", "")
        version = int(last) if re.fullmatch("[0-9]{1,9}", last) else 0
        known = await self._read(request, kind, version)
        if known.status in ENDS and version >= known.version:
            return Response(status_code=204)
        events = self._stream(request, kind, version, read_progress)
        return EventStream(events, caller_of(request), self.max_waiting_per_key)

    async def _stream(
        self, request: Request, kind: Kind, version: int, read_progress: ReadProgress | None
    ) -> AsyncIterator[ServerSentEvent]:
        id_ = job_id(request)
        async with self._subscription(request) as subscription:
            try:
                known: KnownStatus | None = await self._read(request, kind, version)
            except Problem:
                return  # the client reconnects
            pause = float("inf") if read_progress is None else PROGRESS_SECONDS
            last_progress: Progress | None = None
            while known is not None:
                if known.version > version:
                    version = known.version
                    yield _event("status", {"id": id_, "version": version, "status": known.status}, version)
                if known.status in ENDS:
                    return
                newer = await subscription.after(known.version, pause)
                if newer is None and read_progress is not None and subscription.active:
                    newer, progress = known, await read_progress(request)
                    if progress is not None and progress != last_progress:
                        last_progress = progress
                        yield _event("progress", {"id": id_, **progress})
                known = newer


def _event(name: str, data: dict[str, object], version: int | None = None) -> ServerSentEvent:
    return ServerSentEvent(orjson.dumps(data).decode(), event=name, id=None if version is None else str(version))


class JobEndpoints(Generic[Record]):
    """The endpoints of the jobs of one kind. Each raises a 404 problem if the client has no such job of this kind.

    `read` returns records; `show` makes the answer of a record.
    """

    def __init__(
        self,
        kind: Kind,
        jobs: JobReads,
        read: Callable[[Sequence[JobKey], float], Awaitable[Sequence[Record | None]]],
        show: Callable[[Record], Mapping[str, object]],
        waiting: Waiting,
    ):
        self._kind = kind
        self._jobs = jobs
        # Many waiting clients read their records at once. A body has up to 64 KiB, so batches are small.
        self._records = Batcher(read, key=lambda key: key, repeat_transient=True, max_batch=100)
        self._show = show
        self._waiting = waiting

    async def record(self, request: Request) -> Response:
        conditions = read_conditions(request)
        if conditions.wait is not None:
            await self._waiting.read(request, self._kind, conditions)
        record = await self._read(request)
        return versioned(conditions, record["version"], self._show(record))

    async def _read(self, request: Request) -> Record:
        record = await self._records.submit((job_id(request), client_of(request)), READ_SECONDS)
        if record is None:
            raise no_job(request, self._kind)
        return record

    async def status(self, request: Request) -> Response:
        conditions = read_conditions(request)
        known = await self._waiting.read(request, self._kind, conditions)
        return _status_answer(conditions, known.version, known.status)

    async def events(self, request: Request) -> Response:
        return await self._waiting.events(request, self._kind)

    async def attempts(self, request: Request) -> Response:
        rows = await self._jobs.attempts(job_id(request), client_of(request), self._kind, READ_SECONDS)
        if rows is None:
            raise no_job(request, self._kind)
        answer: AttemptsOut = {"data": rows}
        return as_json(answer)

    async def callbacks(self, request: Request) -> Response:
        rows = await self._jobs.callbacks(job_id(request), client_of(request), self._kind, READ_SECONDS)
        if rows is None:
            raise no_job(request, self._kind)
        answer: CallbacksOut = {"data": rows}
        return as_json(answer)
