"""How the console writes numbers, durations and instants."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from api.console.formats import as_json, count, duration, instant, machine_instant, moment, prose, rate

AT = datetime(2026, 11, 29, 16, 28, 49, 123_456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "—"), (-1, "0 ms"), (0.0004, "0 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (3.21, "3.2 s"),
     (59.94, "59.9 s"), (59.96, "1 min"), (245, "4 min 5 s"), (3599.6, "1 h"), (7380, "2 h 3 min"), (86_400, "1 d"),
     (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations_have_their_natural_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.1, "0.10"), (9.994, "9.99"), (12.34, "12.3"), (123.4, "123"), (12_345.6, "12,346")]
)
def test_rates_have_three_digits(value: float, text: str) -> None:
    assert rate(value) == text


def test_counts_are_bounded() -> None:
    assert [count(number) for number in (0, 9_999, 10_000, 10_001)] == ["0", "9,999", "10,000+", "10,000+"]


def test_instants_are_in_utc() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5)))
    assert [instant(None), instant(elsewhere), moment(elsewhere), machine_instant(elsewhere)] == [
        "—", "2026-11-29 16:28:49", "2026-11-29 16:28:49.123", "2026-11-29T16:28:49.123Z",
    ]  # fmt: skip


def test_prose_escapes_everything_but_its_code() -> None:
    assert prose("`a<b` & <script>") == "<code>a&lt;b</code> &amp; &lt;script&gt;"
    assert as_json({"a": 1}) == '{\n  "a": 1\n}'
