"""After the commit: publish the job's message and cache its status.

The outbox row covers the gap. If this process dies after the commit, the relay publishes the message after `grace_seconds`.
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

    def cache(self, status: KnownStatus) -> None:
        """Write a status to the cache, which notifies waiting clients."""
        self._statuses.cache(status)
