"""The instants of cron expressions, by a table: fields, time zones, and both changes of the clock."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.cron import UnknownZone, UnusableCron, next_instant, zone_named

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def instants(cron: str, timezone: str, after: str, count: int) -> list[str]:
    """The next instants in UTC, each computed after the previous one."""
    found, last = [], datetime.fromisoformat(after)
    for _ in range(count):
        last = next_instant(cron, timezone, last)
        assert last.tzinfo is UTC
        found.append(f"{last:%m-%dT%H:%M}")
    return found


@pytest.mark.parametrize(
    ("cron", "timezone", "after", "expected"),
    [
        ("0 6 * * *", "UTC", "2026-01-01T05:59:59.999Z", ["01-01T06:00", "01-02T06:00"]),
        ("0 6 * * *", "UTC", "2026-01-01T06:00:00Z", ["01-02T06:00"]),
        ("0 6 * * *", BERLIN, "2026-01-01T05:00:00Z", ["01-02T05:00"]),
        ("0 6 * * *", BERLIN, "2026-07-01T05:00:00Z", ["07-02T04:00"]),
        ("*/20 * * * *", "UTC", "2026-01-01T00:00:01Z", ["01-01T00:20", "01-01T00:40", "01-01T01:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", ["02-29T00:00"]),
        ("0 9 * * MON-FRI", "UTC", "2026-01-02T10:00:00Z", ["01-05T09:00"]),
        ("0 9 1,15 * *", NEW_YORK, "2026-01-02T10:00:00Z", ["01-15T14:00"]),
        ("0 0 L * *", "UTC", "2026-02-01T00:00:00Z", ["02-28T00:00"]),
        ("0  0 1 jan *", "UTC", "2026-02-01T00:00:00Z", ["01-01T00:00"]),
    ],
)
def test_the_next_instants(cron: str, timezone: str, after: str, expected: list[str]) -> None:
    assert instants(cron, timezone, after, len(expected)) == expected


# On 2026-03-29 the clock in Berlin goes from 02:00 (01:00 UTC) to 03:00.
@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("30 2 * * *", ["03-28T01:30", "03-29T01:00", "03-30T00:30"]),  # after the gap, at 03:00
        ("0 2,3 * * *", ["03-28T01:00", "03-28T02:00", "03-29T01:00", "03-30T00:00"]),  # both at 03:00: one run
        ("0 * * * *", ["03-28T00:00", "03-28T01:00"]),
        ("*/30 2 * * *", ["03-28T01:00", "03-28T01:30", "03-30T00:00"]),  # the hour does not exist
    ],
)
def test_the_clock_goes_forward(cron: str, expected: list[str]) -> None:
    assert instants(cron, BERLIN, "2026-03-27T23:00:00Z", len(expected)) == expected


def test_each_hour_is_an_hour_long_when_the_clock_changes() -> None:
    for after in ("2026-03-28T22:00:00Z", "2026-10-24T22:00:00Z"):
        start = datetime.fromisoformat(after)
        for hours in range(1, 8):
            assert next_instant("0 * * * *", BERLIN, start + timedelta(hours=hours - 1)) == start + timedelta(hours=hours)


# On 2026-10-25 the clock in Berlin goes from 03:00 (01:00 UTC) back to 02:00: 02:30 is at 00:30 UTC and at 01:30 UTC.
@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("30 2 * * *", "2026-10-24T00:00:00Z", ["10-24T00:30", "10-25T00:30", "10-26T01:30"]),
        ("30 2 * * *", "2026-10-25T01:10:00Z", ["10-26T01:30"]),  # between the two: cronsim's first instant is past
        ("*/30 2 * * *", "2026-10-24T12:00:00Z", ["10-25T00:00", "10-25T00:30", "10-25T01:00", "10-25T01:30", "10-26T01:00"]),
    ],
)
def test_the_clock_goes_back(cron: str, after: str, expected: list[str]) -> None:
    assert instants(cron, BERLIN, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("", "must have 5 fields (minute, hour, day of month, month, day of week), has 0"),
        ("@daily", "must have 5 fields (minute, hour, day of month, month, day of week), has 1"),
        ("0 0 6 * * *", "must have 5 fields (minute, hour, day of month, month, day of week), has 6"),
        ("60 * * * *", "has a bad minute"),
        ("* 24 * * *", "has a bad hour"),
        ("* * 0 * *", "has a bad day-of-month"),
        ("* * 32 2 *", "has a bad day-of-month"),
        ("* * * 13 *", "has a bad month"),
        ("* * * * 8", "has a bad day-of-week"),
        ("*/0 * * * *", "has a bad minute"),
        ("٣ * * * *", "has a bad minute"),
        ("0 0 30 2 *", "never matches a date"),
        ("0 0 31 4,6,9,11 *", "never matches a date"),
        ("0 0 */31 2 0#5", "never matches a date"),
    ],
)
def test_an_expression_without_an_instant_is_refused_with_the_reason(cron: str, reason: str) -> None:
    with pytest.raises(UnusableCron) as raised:
        next_instant(cron, "UTC", datetime.now(UTC))
    assert str(raised.value) == reason


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "europe/berlin", "../etc/passwd", "localtime", "Europe", "UTC\0", "x" * 500]
)
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(UnknownZone):
        zone_named(name)


FIELD = st.sampled_from(["*", "*/7", "0", "2", "1,3", "2-4"])
DAY = st.sampled_from(["*", "1", "*/10", "29-31"])


@given(
    st.tuples(FIELD, FIELD, DAY, st.sampled_from(["*", "3,4", "9-10"]), st.sampled_from(["*", "0", "1-5"])).map(" ".join),
    st.sampled_from(["UTC", BERLIN, NEW_YORK, "Africa/Cairo", "Australia/Lord_Howe", "Pacific/Apia"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2031, 1, 1), timezones=st.just(UTC)),
)
@settings(max_examples=300, deadline=None)
def test_the_next_instant_is_in_the_future_and_none_is_between(cron: str, timezone: str, after: datetime) -> None:
    found = next_instant(cron, timezone, after)
    assert found > after
    assert next_instant(cron, timezone, found - timedelta(seconds=1)) == found
