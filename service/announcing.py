"""After the commit: publish the job's message, then cache its status. Nothing is announced before its commit.

The outbox row covers the gap: if this process dies in between, the relay publishes the message after `grace_seconds`.
"""

from jobs.model import KnownStatus, Route
from jobs.wire import Pointer
from service.publishing import EagerPublisher, Outgoing
from service.statuses import Statuses


class Announcer:
    """Announces committed transitions. `grace_seconds`: the head start of this process over the relay."""

    def __init__(self, publisher: EagerPublisher, statuses: Statuses, *, grace_seconds: float):
        self._publisher = publisher
        self._statuses = statuses
        self._grace = grace_seconds

    def publish(
        self, pointer: Pointer, route: Route, queue: str, started: float, headers: dict[str, str | int] | None = None
    ) -> None:
        """Publish one message. `started`: monotonic seconds, before the commit."""
        self._publisher.offer(Outgoing(pointer, route, queue, headers, started + self._grace))

    def cache(self, known: KnownStatus) -> None:
        """Write a status to the cache; waiting clients are notified by it."""
        self._statuses.remember(known)
