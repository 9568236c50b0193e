"""How the console writes numbers, durations and instants. Jinja's filters and the charts share it."""

import re
from datetime import UTC, datetime

import orjson
from markupsafe import Markup, escape

from service.figures import COUNT_LIMIT

NOTHING = "—"


def count(number: int) -> str:
    """A bounded count: "10,000+" at the bound."""
    return f"{COUNT_LIMIT:,}+" if number >= COUNT_LIMIT else f"{number:,}"


def rate(per_second: float) -> str:
    """A rate with three significant digits, without its unit."""
    if per_second == 0 or per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 10 else f"{per_second:.2f}"


def duration(seconds: float | None) -> str:
    """A duration in its natural unit: 12 ms, 3.2 s, 4 min 5 s, 2 h 3 min."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 3600:
        return _two(total, 60, "min", 1, "s")
    return _two(total, 3600, "h", 60, "min") if total < 86_400 else _two(total, 86_400, "d", 3600, "h")


def _two(total: int, large: int, large_unit: str, small: int, small_unit: str) -> str:
    whole, rest = divmod(total, large)
    parts = [f"{whole} {large_unit}", f"{rest // small} {small_unit}"]
    return " ".join(parts if rest // small else parts[:1])


def instant(at: datetime | None) -> str:
    """An instant in UTC, to the second."""
    return NOTHING if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def moment(at: datetime) -> str:
    """An instant in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(" ", "milliseconds").removesuffix("+00:00")


def machine_instant(at: datetime) -> str:
    """An instant for the attribute `datetime` of HTML."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(value: object) -> str:
    """Indented JSON."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def prose(text: str) -> Markup:
    """A text with `code` in backticks, as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  the text is escaped


FILTERS = (count, rate, duration, instant, moment, machine_instant, as_json, prose)
