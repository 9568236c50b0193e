"""Server-sent events of the console: their number for each key is bounded, and each ends with its session."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sse_starlette import ServerSentEvent
from starlette.responses import Response

from api.console.sessions import Viewer
from api.event_streams import CompleteEventSource
from api.jobs import PING_SECONDS, SEND_SECONDS
from api.problems import Problem


def event_of(name: str, text: str) -> ServerSentEvent:
    """One event of a stream. htmx puts its text into the page."""
    return ServerSentEvent(text, event=name, sep="\n")


@dataclass(frozen=True, slots=True)
class Streams:
    """`closed`: the process is shutting down. `max_per_key`: the waiting requests of one key in this process."""

    max_per_key: int
    closed: Callable[[], bool]

    def open(self, viewer: Viewer, events: AsyncIterator[ServerSentEvent]) -> Response:
        """Answer with these events. Raises a 429 problem if the key holds too many waiting requests."""
        caller = viewer.caller
        if caller.prefix is not None and caller.waiting >= self.max_per_key:
            detail = f"Each key may have {self.max_per_key} waiting or streaming requests per process."
            raise Problem(429, "too_many_waiting", detail, headers={"Retry-After": "1"})
        return CompleteEventSource(_counted(viewer, events), ping=PING_SECONDS, send_timeout=SEND_SECONDS, sep="\n")


async def _counted(viewer: Viewer, events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    """Count the stream while it is open. A key with streams stays in the keyring, so its revocation is noticed."""
    viewer.caller.waiting += 1
    try:
        async for event in events:
            yield event
    finally:
        viewer.caller.waiting -= 1
