"""Cron expressions in IANA time zones: the instants at which a schedule is due.

cronsim computes them as Debian's cron does. A time that a change of the clock skips becomes the first minute after the gap. A
time that occurs twice counts once, the first time. If the minute or the hour begins with `*`, elapsed time counts: a repeated
hour runs twice, and a skipped one does not run.
"""

from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_MONTH = 3
_NEVER = "never matches a date"


class UnusableCron(ValueError):
    """A malformed expression, or one that never matches. The message completes "The expression …"."""


class UnknownZone(ValueError):
    """A name that is not in the IANA time zone database."""


@cache
def _names() -> frozenset[str]:
    """The names in the system's database, and in the package `tzdata`. `localtime` depends on the machine."""
    return frozenset(available_timezones()) - {"localtime"}


def zone_named(name: str) -> ZoneInfo:
    """The time zone. Raises `UnknownZone`."""
    if name not in _names():
        raise UnknownZone(name)
    return ZoneInfo(name)


def next_instant(cron: str, timezone: str, after: datetime) -> datetime:
    """The first instant after `after` (aware), in UTC.

    `cron` has the fields `FIELDS`, separated by blanks. Raises `UnusableCron`, `UnknownZone`.
    """
    fields = cron.split()
    if len(fields) != len(FIELDS):
        raise UnusableCron(f"must have {len(FIELDS)} fields ({', '.join(FIELDS)}), has {len(fields)}")
    try:
        instants = CronSim(cron, after.astimezone(zone_named(timezone)))
    except CronSimError as error:
        raise UnusableCron(_reason(fields, error)) from error
    for instant in instants:  # the first ones may be past: cronsim returns the first of two equal times
        if instant > after:
            return instant.astimezone(UTC)
    raise UnusableCron(_NEVER)


def _reason(fields: list[str], error: CronSimError) -> str:
    """Why cronsim refused the expression: a malformed field, or a day that no month of the expression has."""
    try:
        CronSim(" ".join([*fields[:_MONTH], "*", *fields[_MONTH + 1 :]]), datetime.min)
    except CronSimError:
        return f"has a {str(error).lower()}"
    return _NEVER if "day" in str(error) else f"has a {str(error).lower()}"
