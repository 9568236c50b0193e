"""Retry policies: exponential backoff with full jitter, or a schedule."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` charged attempts, within `deadline_seconds` of acceptance."""

    attempts: int = 20
    base_seconds: float = 1.0
    cap_seconds: float = 3600.0
    deadline_seconds: float = 86_400.0
    schedule: tuple[float, ...] = ()  # delays in seconds after the first failed attempt, the second, …, instead of a backoff
    deferrals: int = 50  # the uncharged ones of one revision; each further one is charged like a failed attempt


def schedule_policy(schedule: tuple[float, ...], deadline_seconds: float) -> RetryPolicy:
    """The policy of one immediate attempt, and one after each delay of the schedule."""
    return RetryPolicy(len(schedule) + 1, deadline_seconds=deadline_seconds, schedule=schedule)


DEFERRAL_FLOOR = 1.0  # seconds; the shortest delay after a deferral
_DEFERRAL_DOUBLINGS = 9  # of the floor: 512 s
LONGEST_RETRY_AFTER = 3600.0  # seconds; longer requests are shortened to this


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """The delay of a Retry-After header (RFC 9110, section 10.2.3), which is a number or a date; None if unreadable.

    `now`: the provider's own clock (its Date header), so that a difference between the clocks does not matter.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return min(LONGEST_RETRY_AFTER, float(text[:10]))
    try:
        seconds = (parsedate_to_datetime(text) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, no time zone, or an excessive offset
        return None
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds))


def remote_clock(date: str | None, local: datetime) -> datetime:
    """The instant of a Date header, or `local` if the header is missing or unreadable."""
    try:
        remote = parsedate_to_datetime(date or "")
    except (ValueError, TypeError, OverflowError):
        return local
    return remote if remote.tzinfo else remote.replace(tzinfo=UTC)


def backoff_seconds(policy: RetryPolicy, charged: int, jitter: float) -> float:
    """The delay after the `charged`-th failed attempt (from 1), with `jitter` drawn uniformly from [0, 1).

    Full jitter: uniform in [0, min(cap, base * 2 ** (charged - 1))), from Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015. A schedule varies by a tenth, so that the retries of simultaneous failures spread.
    """
    if policy.schedule:
        return policy.schedule[min(charged, len(policy.schedule)) - 1] * (0.9 + 0.2 * jitter)
    exponent = min(charged - 1, 62)  # the cap applies long before; a larger exponent overflows
    return jitter * min(policy.cap_seconds, policy.base_seconds * 2.0**exponent)


def deferral_seconds(policy: RetryPolicy, requested: float | None, deferrals: int, jitter: float) -> float:
    """The delay after a deferral that follows `deferrals` others; `jitter` from [0, 1) at most doubles it.

    The backoff doubles from the floor to 512 s; with its jitter it exceeds neither the cap nor twice the floor. A longer
    Retry-After (`requested`) takes precedence, plus a tenth at most.
    """
    bound = min(policy.cap_seconds, 2.0 * DEFERRAL_FLOOR * 2.0 ** min(deferrals, _DEFERRAL_DOUBLINGS))
    backoff = max(2.0 * DEFERRAL_FLOOR, bound) * (1 + jitter) / 2
    return max(backoff, (requested or 0.0) * (1 + jitter / 10))
