"""Server-sent events of the console: their number for each key is bounded, and each ends with its session."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

from sse_starlette import ServerSentEvent
from starlette.responses import Response

from api.console.sessions import Viewer
from api.jobs import EventStream
from service.figures import Figures


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

    async def follow(
        self,
        viewer: Viewer,
        samples: AsyncIterator[Figures],
        render: Callable[[Figures], Awaitable[Iterable[ServerSentEvent]]],
        signed_out: Callable[[], str],
    ) -> AsyncIterator[ServerSentEvent]:
        """The events of each sample, until a shutdown or the end of the session. `ended` is the last event of a session."""
        async for sample in samples:
            if self.closed():
                return
            if not viewer.is_active(time.time()):
                yield event_of("now", signed_out())
                yield event_of("ended", "ended")
                return
            for event in await render(sample):
                yield event
