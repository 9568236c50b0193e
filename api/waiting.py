"""Reads that can wait: `Prefer: wait=N` (RFC 7240) answers when there is something new to tell, or when the time is up.

The ETag of a job's representations is its version. With `If-None-Match` anything newer is news; without it the client has seen
nothing but the 202, and what it waits for is the end.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from api.answers import as_json, job_id
from api.callers import Caller, caller_of, client_of
from api.problems import Problem, not_found, unavailable
from infra.errors import Transient
from jobs.lifecycle import ENDS
from jobs.model import Kind, KnownStatus
from service.statuses import Statuses
from service.subscriptions import Subscriptions

MAX_WAIT_SECONDS = 60
PING_SECONDS = 15
PROGRESS_SECONDS = 1.0
SEND_SECONDS = 10.0  # a reader that takes longer to take an event is dropped
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,9})\"?(?=[,;\s]|$)", re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,9})"')


Progress = Callable[[UUID, str], Awaitable[dict[str, Any] | None]]


def seen_version(request: Request) -> int:
    """The newest version that the client has, by `If-None-Match`; 0: none."""
    return max(map(int, _ETAG.findall(request.headers.get("if-none-match", ""))), default=0)


def preferred_wait(request: Request) -> int | None:
    """The seconds for which the client prefers to wait, capped; None: it has not said so."""
    found = _WAIT.search(", ".join(request.headers.getlist("prefer")))
    return None if found is None else min(int(found[1]), MAX_WAIT_SECONDS)


def versioned(request: Request, version: int, content: dict[str, Any], applied: Mapping[str, str]) -> Response:
    """A representation of a job at this version; 304 where the client has it already."""
    headers = {"ETag": f'"{version}"', "Vary": "Prefer", **applied}
    unchanged = version == seen_version(request)
    return Response(status_code=304, headers=headers) if unchanged else as_json(content, headers=headers)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Statuses that can be waited for, by `each` key with so many requests at a time in this process."""

    statuses: Statuses
    subscriptions: Subscriptions
    max_waiting_per_key: int

    async def known(self, request: Request, kind: Kind) -> tuple[KnownStatus, dict[str, str]]:
        """The status of the job in the path, after as long a wait as the client prefers, and the header that says so.

        Raises:
            Problem: 404 where there is no such job of this kind and client, 503 where nobody can tell.
        """
        id_, seconds, seen = job_id(request), preferred_wait(request), seen_version(request)
        if seconds is None:
            return await self._read(id_, kind, client_of(request), seen), {}
        caller = self._admitted(request)
        with _counted(caller):
            known = await self._wait(id_, kind, caller, seen, seconds)
        return known, {"Preference-Applied": f"wait={seconds}"}

    def _admitted(self, request: Request) -> Caller:
        """Whoever wants to wait, if it may.

        Raises:
            Problem: 429, too many requests of this key wait.
        """
        caller = caller_of(request)
        if caller.prefix is not None and caller.waiting >= self.max_waiting_per_key:
            detail = f"{self.max_waiting_per_key} requests of this key are waiting or streaming at this process; no more may."
            raise Problem(429, "too_many_waiting", detail, headers={"Retry-After": "1"})
        return caller

    async def status(self, request: Request, kind: Kind) -> Response:
        """`{"status": …}` of the job in the path. Raises what `known` raises."""
        known, applied = await self.known(request, kind)
        return versioned(request, known.version, {"status": known.status}, applied)

    async def first(self, request: Request, kind: Kind) -> dict[str, str]:
        """Wait, if the client prefers to, before the job's record is read. Returns and raises as `known`."""
        return {} if preferred_wait(request) is None else (await self.known(request, kind))[1]

    async def _wait(self, id_: UUID, kind: Kind, caller: Caller, seen: int, seconds: float) -> KnownStatus:
        deadline = time.monotonic() + seconds
        # Subscribed before the read: a change during the read is not missed.
        with self.subscriptions.subscribe(id_, lambda: caller.usable) as subscription:
            known = await self._read(id_, kind, caller.client_id, seen)
            while known.status not in ENDS and (known.version == seen or not seen):
                news = await subscription.after(known.version, deadline - time.monotonic())
                if news is None:
                    return known
                known = news
        return known

    async def _read(self, id_: UUID, kind: Kind, client_id: str, seen: int = 0) -> KnownStatus:
        """The status now; a cache that is behind what the client has seen is not asked."""
        try:
            known = await self.statuses.read(id_)
            if known is not None and known.version < seen:
                known = await self.statuses.read_ledger(id_)
        except Transient as error:
            raise unavailable("Neither the cache nor the database answers; the status is unknown.") from error
        if known is None or known.client_id != client_id or known.kind is not kind:
            raise not_found()
        return known

    async def events(self, request: Request, kind: Kind, progress: Progress | None = None) -> Response:
        """Server-sent events: the status now, then each newer one that is heard, until the final one; and progress.

        `id` is the version. 204, at which a browser does not connect again, where `Last-Event-ID` names the final one.

        Raises:
            Problem: as `known`.
        """
        id_, caller = job_id(request), self._admitted(request)
        known = await self._read(id_, kind, caller.client_id)
        last = request.headers.get("last-event-id", "")
        version = int(last) if re.fullmatch("[0-9]{1,9}", last) else 0
        if known.status in ENDS and version >= known.version:
            return Response(status_code=204)
        return EventSourceResponse(
            self._stream(id_, kind, caller, version, progress), ping=PING_SECONDS, send_timeout=SEND_SECONDS, sep="\n"
        )

    async def _stream(
        self, id_: UUID, kind: Kind, caller: Caller, version: int, progress: Progress | None
    ) -> AsyncIterator[ServerSentEvent]:
        with _counted(caller), self.subscriptions.subscribe(id_, lambda: caller.usable) as subscription:
            try:
                known: KnownStatus | None = await self._read(id_, kind, caller.client_id)
            except Problem:
                return  # it could be read a moment ago: the client connects again
            told: dict[str, Any] | None = None
            while known is not None:
                if known.version > version:
                    version = known.version
                    yield _event("status", {"id": str(id_), "version": version, "status": known.status}, version)
                if known.status in ENDS:
                    return
                news = await subscription.after(known.version, float("inf") if progress is None else PROGRESS_SECONDS)
                if news is None and progress is not None and subscription.active:
                    news, now = known, await progress(id_, caller.client_id)
                    if now is not None and now != told:
                        told = now
                        yield _event("progress", {"id": str(id_), **now})
                known = news


@contextmanager
def _counted(caller: Caller) -> Iterator[None]:
    """One more of a caller's requests waits."""
    caller.waiting += 1
    try:
        yield
    finally:
        caller.waiting -= 1


def _event(name: str, data: dict[str, Any], version: int | None = None) -> ServerSentEvent:
    return ServerSentEvent(orjson.dumps(data).decode(), event=name, id=None if version is None else str(version))
