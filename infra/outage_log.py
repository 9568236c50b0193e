"""One log line when an outage begins, and one when it ends, instead of one for each attempt."""

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger()


class OutageLog:
    """Logs `<subject>.down` after `after_seconds` of failures, and `<subject>.up` at the next success.

    `effect`: the consequence for users of the service. Each failure is also logged at debug level.
    """

    def __init__(
        self, subject: str, effect: str, *, after_seconds: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ):
        self._subject = subject
        self._effect = effect
        self._after_seconds = after_seconds
        self._monotonic = monotonic
        self._failing_since: float | None = None
        self._is_down = False

    def failed(self, error: BaseException) -> None:
        now = self._monotonic()
        reason = str(error) or type(error).__name__
        if self._failing_since is None:
            self._failing_since = now
        if not self._is_down and now - self._failing_since >= self._after_seconds:
            self._is_down = True
            log.warning(f"{self._subject}.down", reason=reason, effect=self._effect)
        else:
            log.debug(f"{self._subject}.failed", reason=reason)

    def succeeded(self) -> None:
        if self._is_down and self._failing_since is not None:
            log.info(f"{self._subject}.up", seconds=round(self._monotonic() - self._failing_since, 1))
        self._failing_since, self._is_down = None, False
