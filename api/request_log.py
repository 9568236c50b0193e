"""The request log: one line for each request at debug level, and by default for failed and slow requests only.

A line costs more than the rest of a short request. So the default level logs answers that an operator acts on.
"""

import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import Scope

log = structlog.get_logger()

SLOW_SECONDS = 1.0
MOST_LINES = 20  # in one second; an outage fails every request


class RequestLog:
    """Logs `request.answered`. `everything`: at debug level. Durations end with the head of the answer: streams stay open."""

    def __init__(self, *, everything: bool, monotonic: Callable[[], float] = time.monotonic):
        self._everything = everything
        self._monotonic = monotonic
        self._second, self._lines, self._skipped = 0, 0, 0

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Log the request if it failed, was slow, or every request is logged."""
        if status >= 500:
            if self._has_room():
                log.warning("request.answered", **self._fields(scope, status, seconds))
        elif self._everything:
            log.debug("request.answered", **self._fields(scope, status, seconds))
        elif seconds >= SLOW_SECONDS and not _waits(scope) and self._has_room():
            log.info("request.answered", **self._fields(scope, status, seconds))

    def _has_room(self) -> bool:
        """Whether this second has a line left."""
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        self._skipped += self._lines > MOST_LINES
        return self._lines <= MOST_LINES

    def _fields(self, scope: Scope, status: int, seconds: float) -> dict[str, Any]:
        caller = scope.get("posthaste.caller")
        skipped, self._skipped = self._skipped, 0
        return {
            "method": scope["method"],
            "route": getattr(scope.get("endpoint"), "path", None),
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
            "request_id": scope.get("posthaste.request_id"),
            "client": None if caller is None else caller.client_id,
            "skipped": skipped or None,
        }


def _waits(scope: Scope) -> bool:
    """Whether the client asked to wait: RFC 7240, `Prefer: wait`."""
    return any(name == b"prefer" for name, _ in scope["headers"])
