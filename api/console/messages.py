"""The page of one message: its record and its life, live until the final status, and what can be done with a dead letter."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from api.answers import READ_SECONDS, job_id
from api.console.pages import Pages, see_other, viewer_of
from api.console.search import PATH
from api.console.sessions import Viewer
from api.console.streams import Streams, event_of
from api.console.timeline import Timeline, draw_timeline
from api.problems import Problem, not_found
from infra.errors import Transient
from infra.keys import Scope
from infra.postgres.dead_letters import BEFORE_ALL, Filter
from infra.postgres.job_reads import JobReads, MessageRecord
from infra.postgres.message_search import MessageSearch, Position
from jobs.lifecycle import ENDS, Cause, sources
from jobs.model import Kind
from service.dead_letters import BatchResult, DeadLetters
from service.statuses import Subscriptions

log = structlog.get_logger()

REDRAW_SECONDS = 5.0  # the waits of a message that does not change grow
_MAX_VERSION = 2**31 - 1
_DEAD = sources(Cause.REQUEUE)


@dataclass(frozen=True, slots=True)
class _Message:
    """Everything that the page shows about one message."""

    record: MessageRecord
    position: Position
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class Messages:
    """The endpoints of one message. Only administrators see the messages of other clients."""

    pages: Pages
    search: MessageSearch
    jobs: JobReads
    subscriptions: Subscriptions
    letters: DeadLetters
    streams: Streams

    async def show(self, request: Request) -> Response:
        message = await self._read(request)
        done = request.query_params.get("done", "")
        return self.pages.show(request, "message.html", done=done, **_values(request, message))

    async def events(self, request: Request) -> Response:
        """The page's live part after each change, until the final status."""
        await self._read(request)
        return self.streams.open(viewer_of(request), self._stream(request))

    async def requeue(self, request: Request) -> Response:
        """Requeue the dead letter that the page showed. A second click finds another version, and changes nothing."""
        form = await request.form()
        result = await self.letters.requeue(await self._letter(request), BEFORE_ALL, 1, extend=form.get("extend") == "on")
        return self._done(request, result, "requeued")

    async def discard(self, request: Request) -> Response:
        """Discard the dead letter that the page showed."""
        result = await self.letters.discard(await self._letter(request), BEFORE_ALL, 1)
        return self._done(request, result, "discarded")

    def _done(self, request: Request, result: BatchResult, what: str) -> Response:
        done = what if result.moved else "expired" if result.expired else "unconfigured" if result.unconfigured else "unchanged"
        id_, client = job_id(request), viewer_of(request).caller.client_id
        if result.moved:
            action = "dead_letters.requeued" if what == "requeued" else "dead_letters.discarded"
            log.info(action, client=client, jobs=1, id=str(id_))
        return see_other(f"{PATH}/{id_}?done={done}")

    async def _letter(self, request: Request) -> Filter:
        """The filter for exactly the dead letter in the form."""
        await self._client(request)
        version = str((await request.form()).get("version", ""))
        if not version.isdecimal() or len(version) > 10 or int(version) > _MAX_VERSION:
            raise Problem(422, "validation", "The form lacks the message's version. Open its page again.")
        return Filter(kind=Kind.MESSAGE, ids=(job_id(request),), version=int(version))

    async def _client(self, request: Request) -> Position:
        """The position of the message in the path. Raises a 404 problem unless the viewer may see it."""
        position, viewer = await self.search.position(job_id(request), READ_SECONDS), viewer_of(request)
        if position is None or not (viewer.may(Scope.ADMIN) or position.client_id == viewer.caller.client_id):
            raise not_found("There is no message with this id. It may be of another client, or deleted after its retention.")
        return position

    async def _read(self, request: Request) -> _Message:
        position, id_ = await self._client(request), job_id(request)
        (record,) = await self.jobs.messages([(id_, position.client_id)], READ_SECONDS)
        attempts = await self.jobs.attempts(id_, position.client_id, Kind.MESSAGE, READ_SECONDS)
        callbacks = await self.jobs.callbacks(id_, position.client_id, Kind.MESSAGE, READ_SECONDS)
        answers = await self.search.answers(id_, READ_SECONDS)
        if record is None or attempts is None or callbacks is None:
            raise not_found("This message was deleted a moment ago.")
        timeline = draw_timeline(record, position, attempts, callbacks, answers, datetime.now(UTC))
        return _Message(record, position, timeline)

    async def _stream(self, request: Request) -> AsyncIterator[ServerSentEvent]:
        viewer = viewer_of(request)
        async with self.subscriptions.subscribe(job_id(request), lambda: viewer.caller.usable) as subscription:
            while not self.streams.closed():
                if not viewer.is_active(time.time()):
                    yield event_of("message", self.pages.signed_out())
                    break
                try:
                    message = await self._read(request)
                except (Transient, Problem) as error:
                    log.debug("console.stream_cut", id=str(job_id(request)), reason=str(error))
                    return  # the browser connects again, and finds a page that names the reason
                text = self.pages.fragment("message.html", "live", **_values(request, message))
                yield event_of("message", text)
                if message.record["status"] in ENDS:
                    break
                await subscription.after(message.record["version"], REDRAW_SECONDS)
        if not self.streams.closed():
            yield event_of("ended", "ended")


def _values(request: Request, message: _Message) -> dict[str, Any]:
    viewer: Viewer = viewer_of(request)
    record, id_ = message.record, job_id(request)
    return {
        "message": record,
        "position": message.position,
        "timeline": message.timeline,
        "path_of_message": f"{PATH}/{id_}",
        "is_final": record["status"] in ENDS,
        "may_act": record["status"] in _DEAD and viewer.may(Scope.DEAD_LETTERS),
        "form_token": request.scope["posthaste.form_token"],
    }
