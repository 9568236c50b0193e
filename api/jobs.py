"""The endpoints that every kind of job has, and their reads that wait.

`Prefer: wait=N` (RFC 7240) answers when the job changes, or after N seconds: with `If-None-Match` for a newer version, without
it for the final status. The ETag of a job's representations is its version.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, as_json, job_id
from api.callers import caller_of, client_of
from api.problems import Problem, not_found, unavailable
from api.shapes import AttemptsOut, CallbacksOut, StatusOut
from infra.errors import Transient
from infra.postgres.job_reads import JobKey, JobReads, JobRow, Progress
from jobs.lifecycle import ENDS
from jobs.model import Kind, KnownStatus
from service.batching import Batcher
from service.statuses import Statuses, Subscription, Subscriptions

MAX_WAIT_SECONDS = 60
PING_SECONDS = 15
PROGRESS_SECONDS = 1.0
SEND_SECONDS = 10.0  # a client that reads more slowly is disconnected
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,9})\"?(?=[,;\s]|$)", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,9})"')

Record = TypeVar("Record", bound=JobRow)
ReadProgress = Callable[[Request], Awaitable[Progress | None]]


def known_version(request: Request) -> int:
    """The newest version that the client has, by `If-None-Match`; 0 without one."""
    return max(map(int, _ETAG.findall(request.headers.get("if-none-match", ""))), default=0)


def preferred_wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait`, at most `MAX_WAIT_SECONDS`; None without it."""
    found = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    return None if found is None else min(int(found[1]), MAX_WAIT_SECONDS)


def versioned(request: Request, version: int, content: Mapping[str, object]) -> Response:
    """A representation of a job at this version, after the preferred wait; 304 if the client has that version."""
    headers, seconds = {"ETag": f'"{version}"', "Vary": "Prefer"}, preferred_wait(request)
    if seconds is not None:
        headers["Preference-Applied"] = f"wait={seconds}"
    unchanged = version == known_version(request)
    return Response(status_code=304, headers=headers) if unchanged else as_json(content, headers=headers)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Reads statuses, and waits for their changes. `max_waiting_per_key` limits the waiting requests in this process."""

    statuses: Statuses
    subscriptions: Subscriptions
    max_waiting_per_key: int

    async def read(self, request: Request, kind: Kind) -> KnownStatus:
        """The status after the preferred wait. Problems: 404 the client has no such job, 429 too many wait, 503 unknown."""
        seconds = preferred_wait(request)
        return await (self._read(request, kind) if seconds is None else self._wait(request, kind, seconds))

    def _admit(self, request: Request) -> None:
        """Raise a 429 problem unless the caller's key may have one more waiting request."""
        caller = caller_of(request)
        if caller.prefix is not None and caller.waiting >= self.max_waiting_per_key:
            detail = f"Each key may have {self.max_waiting_per_key} waiting or streaming requests per process."
            raise Problem(429, "too_many_waiting", detail, headers={"Retry-After": "1"})

    @asynccontextmanager
    async def _subscription(self, request: Request) -> AsyncIterator[Subscription]:
        """Subscribe to the job in the path, and count a waiting request of the caller."""
        caller = caller_of(request)
        caller.waiting += 1
        try:
            async with self.subscriptions.subscribe(job_id(request), lambda: caller.usable) as subscription:
                yield subscription
        finally:
            caller.waiting -= 1

    async def _wait(self, request: Request, kind: Kind, seconds: float) -> KnownStatus:
        self._admit(request)
        version, deadline = known_version(request), time.monotonic() + seconds
        # The subscription starts before the read, so a change during the read is not missed.
        async with self._subscription(request) as subscription:
            known = await self._read(request, kind)
            while known.status not in ENDS and (known.version == version or not version):
                newer = await subscription.after(known.version, deadline - time.monotonic())
                if newer is None:
                    return known
                known = newer
        return known

    async def _read(self, request: Request, kind: Kind) -> KnownStatus:
        """The status now. The ledger replaces a cache that is older than the client's version."""
        try:
            known = await self.statuses.read(job_id(request))
            if known is not None and known.version < known_version(request):
                known = await self.statuses.read_ledger(known.id)
        except Transient as error:
            raise unavailable("Neither the cache nor the database answers. The status is unknown.") from error
        if known is None or known.client_id != client_of(request) or known.kind is not kind:
            raise not_found()
        return known

    async def events(self, request: Request, kind: Kind, read_progress: ReadProgress | None = None) -> Response:
        """Server-sent events: the status now, each newer status until the final one, and progress. Raises as `read`.

        The event id is the version. 204 if `Last-Event-ID` is the final version; browsers do not reconnect after it.
        """
        self._admit(request)
        known = await self._read(request, kind)
        last = request.headers.get("last-event-id", "")
        version = int(last) if re.fullmatch("[0-9]{1,9}", last) else 0
        if known.status in ENDS and version >= known.version:
            return Response(status_code=204)
        events = self._stream(request, kind, version, read_progress)
        return EventSourceResponse(events, ping=PING_SECONDS, send_timeout=SEND_SECONDS, sep="\n")

    async def _stream(
        self, request: Request, kind: Kind, version: int, read_progress: ReadProgress | None
    ) -> AsyncIterator[ServerSentEvent]:
        id_ = job_id(request)
        async with self._subscription(request) as subscription:
            try:
                known: KnownStatus | None = await self._read(request, kind)
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
        if preferred_wait(request) is not None:
            await self._waiting.read(request, self._kind)
        record = await self._read(request)
        return versioned(request, record["version"], self._show(record))

    async def _read(self, request: Request) -> Record:
        record = await self._records.submit((job_id(request), client_of(request)), READ_SECONDS)
        if record is None:
            raise not_found()
        return record

    async def status(self, request: Request) -> Response:
        known = await self._waiting.read(request, self._kind)
        answer: StatusOut = {"status": known.status}
        return versioned(request, known.version, answer)

    async def events(self, request: Request) -> Response:
        return await self._waiting.events(request, self._kind)

    async def attempts(self, request: Request) -> Response:
        rows = await self._jobs.attempts(job_id(request), client_of(request), self._kind, READ_SECONDS)
        if rows is None:
            raise not_found()
        answer: AttemptsOut = {"data": rows}
        return as_json(answer)

    async def callbacks(self, request: Request) -> Response:
        rows = await self._jobs.callbacks(job_id(request), client_of(request), self._kind, READ_SECONDS)
        if rows is None:
            raise not_found()
        answer: CallbacksOut = {"data": rows}
        return as_json(answer)
