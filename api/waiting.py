"""Reads that wait. `Prefer: wait=N` (RFC 7240) answers when the job changes, or after N seconds.

The ETag of a job's representations is its version. With `If-None-Match` the request waits for a newer version, without it for
the final status.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from api.answers import as_json, job_id
from api.callers import Caller, caller_of, client_of
from api.problems import Problem, not_found, unavailable
from api.shapes import Progress, StatusOut
from infra.errors import Transient
from jobs.lifecycle import ENDS
from jobs.model import Kind, KnownStatus
from service.statuses import Statuses, Subscriptions

MAX_WAIT_SECONDS = 60
PING_SECONDS = 15
PROGRESS_SECONDS = 1.0
SEND_SECONDS = 10.0  # a client that reads more slowly is disconnected
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,9})\"?(?=[,;\s]|$)", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,9})"')

ReadProgress = Callable[[UUID, str], Awaitable[Progress | None]]


def known_version(request: Request) -> int:
    """The newest version that the client has, by `If-None-Match`; 0 without one."""
    return max(map(int, _ETAG.findall(request.headers.get("if-none-match", ""))), default=0)


def preferred_wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait`, at most `MAX_WAIT_SECONDS`; None without it."""
    found = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    return None if found is None else min(int(found[1]), MAX_WAIT_SECONDS)


def versioned(request: Request, version: int, content: Mapping[str, object], applied: Mapping[str, str]) -> Response:
    """A representation of a job at this version; 304 if the client has that version."""
    headers = {"ETag": f'"{version}"', "Vary": "Prefer", **applied}
    unchanged = version == known_version(request)
    return Response(status_code=304, headers=headers) if unchanged else as_json(content, headers=headers)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Reads statuses, and waits for their changes. `max_waiting_per_key` limits the waiting requests in this process."""

    statuses: Statuses
    subscriptions: Subscriptions
    max_waiting_per_key: int

    async def status(self, request: Request, kind: Kind) -> Response:
        """`{"status": …}` of the job in the path. Raises as `read`."""
        known, applied = await self.read(request, kind)
        answer: StatusOut = {"status": known.status}
        return versioned(request, known.version, answer, applied)

    async def first(self, request: Request, kind: Kind) -> dict[str, str]:
        """Wait before the job's record is read, if the client prefers that. Returns the header of `read`; raises as `read`."""
        return {} if preferred_wait(request) is None else (await self.read(request, kind))[1]

    async def read(self, request: Request, kind: Kind) -> tuple[KnownStatus, dict[str, str]]:
        """The status of the job in the path, after the preferred wait, and the header `Preference-Applied`.

        Raises:
            Problem: 404 the client has no such job of this kind, 429 too many waiting requests, 503 the status is unknown.
        """
        id_, seconds, version = job_id(request), preferred_wait(request), known_version(request)
        if seconds is None:
            return await self._read(id_, kind, client_of(request), version), {}
        caller = self._admitted(request)
        with _counted(caller):
            known = await self._wait(id_, kind, caller, version, seconds)
        return known, {"Preference-Applied": f"wait={seconds}"}

    def _admitted(self, request: Request) -> Caller:
        """The caller, if its key may have one more waiting request.

        Raises:
            Problem: 429, it may not.
        """
        caller = caller_of(request)
        if caller.prefix is not None and caller.waiting >= self.max_waiting_per_key:
            detail = f"Each key may have {self.max_waiting_per_key} waiting or streaming requests per process."
            raise Problem(429, "too_many_waiting", detail, headers={"Retry-After": "1"})
        return caller

    async def _wait(self, id_: UUID, kind: Kind, caller: Caller, version: int, seconds: float) -> KnownStatus:
        deadline = time.monotonic() + seconds
        # The subscription starts before the read, so a change during the read is not missed.
        with self.subscriptions.subscribe(id_, lambda: caller.usable) as subscription:
            known = await self._read(id_, kind, caller.client_id, version)
            while known.status not in ENDS and (known.version == version or not version):
                newer = await subscription.after(known.version, deadline - time.monotonic())
                if newer is None:
                    return known
                known = newer
        return known

    async def _read(self, id_: UUID, kind: Kind, client_id: str, version: int = 0) -> KnownStatus:
        """The status now. The ledger replaces a cache that is older than the client's `version`."""
        try:
            known = await self.statuses.read(id_)
            if known is not None and known.version < version:
                known = await self.statuses.read_ledger(id_)
        except Transient as error:
            raise unavailable("Neither the cache nor the database answers. The status is unknown.") from error
        if known is None or known.client_id != client_id or known.kind is not kind:
            raise not_found()
        return known

    async def events(self, request: Request, kind: Kind, read_progress: ReadProgress | None = None) -> Response:
        """Server-sent events: the status now, each newer status until the final one, and progress.

        The event id is the version. 204 if `Last-Event-ID` is the final version; browsers do not reconnect after it.

        Raises:
            Problem: as `read`.
        """
        id_, caller = job_id(request), self._admitted(request)
        known = await self._read(id_, kind, caller.client_id)
        last = request.headers.get("last-event-id", "")
        version = int(last) if re.fullmatch("[0-9]{1,9}", last) else 0
        if known.status in ENDS and version >= known.version:
            return Response(status_code=204)
        events = self._stream(id_, kind, caller, version, read_progress)
        return EventSourceResponse(events, ping=PING_SECONDS, send_timeout=SEND_SECONDS, sep="\n")

    async def _stream(
        self, id_: UUID, kind: Kind, caller: Caller, version: int, read_progress: ReadProgress | None
    ) -> AsyncIterator[ServerSentEvent]:
        with _counted(caller), self.subscriptions.subscribe(id_, lambda: caller.usable) as subscription:
            try:
                known: KnownStatus | None = await self._read(id_, kind, caller.client_id)
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
                    newer, progress = known, await read_progress(id_, caller.client_id)
                    if progress is not None and progress != last_progress:
                        last_progress = progress
                        yield _event("progress", {"id": id_, **progress})
                known = newer


@contextmanager
def _counted(caller: Caller) -> Iterator[None]:
    """Count a waiting request of the caller."""
    caller.waiting += 1
    try:
        yield
    finally:
        caller.waiting -= 1


def _event(name: str, data: dict[str, object], version: int | None = None) -> ServerSentEvent:
    return ServerSentEvent(orjson.dumps(data).decode(), event=name, id=None if version is None else str(version))
