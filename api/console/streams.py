"""Server-sent events of the console: their number for each key is bounded, and each ends with its session."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sse_starlette import ServerSentEvent
from starlette.responses import Response

from api.console.sessions import Viewer
from api.jobs import EventStream


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
        return EventStream(events, viewer.caller, self.max_per_key)
