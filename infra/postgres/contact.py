"""Contact with Postgres: how long it has answered without interruption. Slow answers keep contact; silence loses it."""

import time
from collections.abc import Callable


class Contact:
    """The contact of one pool. A failed connection or `silence_seconds` without any answer loses it.

    A call that waits for a lock or a slow disk does not lose it while other calls are answered.
    """

    def __init__(self, silence_seconds: float, *, monotonic: Callable[[], float] = time.monotonic):
        self._silence_seconds = silence_seconds
        self._monotonic = monotonic
        self._since: float | None = None
        self._silent_since: float | None = None  # the first request after the last answer

    def requested(self) -> None:
        if self._silent_since is None:
            self._silent_since = self._monotonic()

    def answered(self) -> None:
        self._silent_since = None
        if self._since is None:
            self._since = self._monotonic()

    def abandoned(self) -> None:
        """A call was abandoned at its deadline."""
        self.requested()
        assert self._silent_since is not None
        if self._monotonic() - self._silent_since >= self._silence_seconds:
            self.lost()

    def lost(self) -> None:
        self._since = None

    @property
    def seconds(self) -> float:
        """Seconds since the first answer after the last loss; 0 while contact is lost."""
        return 0.0 if self._since is None else self._monotonic() - self._since
