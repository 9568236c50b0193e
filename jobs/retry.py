"""When a job is tried again: exponential backoff with full jitter, or a schedule."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` charged attempts at most, within `deadline_seconds` of acceptance; delays in seconds.

    `schedule`: the delay after the first failed attempt, the second, …, instead of a backoff from `base` to `cap`.
    `deferrals`: uncharged tries of one revision; a deferral beyond them is charged like a failed attempt.
    """

    attempts: int = 8
    base_seconds: float = 1.0
    cap_seconds: float = 300.0
    deadline_seconds: float = 86_400.0
    schedule: tuple[float, ...] = ()
    deferrals: int = 50


def scheduled(schedule: tuple[float, ...], deadline_seconds: float) -> RetryPolicy:
    """One attempt at once, and one after each delay of the schedule."""
    return RetryPolicy(len(schedule) + 1, deadline_seconds=deadline_seconds, schedule=schedule)


DEFERRAL_FLOOR = 1.0  # seconds; no provider is asked again sooner
_DEFERRAL_DOUBLINGS = 9  # of the floor: 512 s
LONGEST_RETRY_AFTER = 3600.0  # seconds; who asks for more is asked again after that


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After header (RFC 9110, section 10.2.3) asks for, as a number or a date; None if unreadable.

    `now`: the provider's own clock (its Date header) where it tells, so that clocks that differ do not matter.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return min(LONGEST_RETRY_AFTER, float(text[:10]))
    try:
        seconds = (parsedate_to_datetime(text) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, one without a zone, or an offset beyond all bounds
        return None
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds))


def their_clock(date: str | None, ours: datetime) -> datetime:
    """The instant of a Date header, or `ours` if the header is missing or unreadable."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, OverflowError):
        return ours
    return theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)


def backoff_seconds(policy: RetryPolicy, charged: int, jitter: float) -> float:
    """The delay after the `charged`-th failed attempt (from 1), with `jitter` drawn uniformly from [0, 1).

    Full jitter: uniform in [0, min(cap, base * 2 ** (charged - 1))), from Marc Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015. A schedule is kept to a tenth, so that what failed together comes apart.
    """
    if policy.schedule:
        return policy.schedule[min(charged, len(policy.schedule)) - 1] * (0.9 + 0.2 * jitter)
    exponent = min(charged - 1, 62)  # beyond it the cap has long won, and a float would overflow
    return jitter * min(policy.cap_seconds, policy.base_seconds * 2.0**exponent)


def deferral_seconds(requested: float | None, deferrals: int, jitter: float) -> float:
    """The delay after a deferral that follows `deferrals` others; `jitter` from [0, 1).

    The backoff doubles from the floor to 512 s, and jitter at most doubles each. A longer request (Retry-After) wins; jitter
    adds at most a tenth to it.
    """
    backoff = DEFERRAL_FLOOR * 2.0 ** min(deferrals, _DEFERRAL_DOUBLINGS) * (1 + jitter)
    return max(backoff, (requested or 0.0) * (1 + jitter / 10))
