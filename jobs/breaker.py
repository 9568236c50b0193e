"""A circuit breaker. Consecutive calls without an answer open it; half-open, it admits one call at a time.

After Michael Nygard, "Release It!", 2007. Each step returns the next state. Instants are the caller's monotonic seconds.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from jobs.outcome import Outcome, Verdict
from jobs.retry import DEFERRAL_FLOOR


class State(StrEnum):
    """Closed: calls are sent. Open: calls are refused. Half-open: one call at a time probes the provider."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Opens after `failures` consecutive failures, for `open_seconds`, doubled by each further opening up to `cap_seconds`."""

    failures: int = 5
    open_seconds: float = 5.0
    cap_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state of one breaker: consecutive failures, consecutive openings, and the end of its open time."""

    policy: BreakerPolicy
    failures: int = 0
    openings: int = 0
    until: float | None = None

    @property
    def is_failing(self) -> bool:
        """Whether failures have opened it, and no call has been answered since. A requested delay is no failure."""
        return self.openings > 0

    def state(self, now: float) -> State:
        if self.until is None:
            return State.CLOSED
        return State.OPEN if now < self.until else State.HALF_OPEN

    def after(self, outcome: Outcome, now: float) -> "Breaker":
        """The breaker after one call. An answer that defers opens it for the requested time; every other answer closes it."""
        if outcome.verdict is Verdict.RELEASED:
            return self
        if not outcome.answered:
            return self._failed(now)
        if outcome.verdict is Verdict.DEFERRED:
            requested = outcome.retry_after_seconds
            seconds = self.policy.open_seconds if requested is None else max(DEFERRAL_FLOOR, requested)
            return replace(self, until=max(now + seconds, self.until or now))
        return Breaker(self.policy)

    def _failed(self, now: float) -> "Breaker":
        state, failures = self.state(now), self.failures + 1
        if state is State.OPEN:  # the call began before the breaker opened
            return self
        if state is State.CLOSED and failures < self.policy.failures:
            return replace(self, failures=failures)
        seconds = min(self.policy.cap_seconds, self.policy.open_seconds * 2.0 ** min(self.openings, 30))
        return Breaker(self.policy, 0, self.openings + 1, now + seconds)
