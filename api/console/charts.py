"""Geometry of the charts that the server draws as SVG: for readers without JavaScript, and for timelines."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.figures import Rates

WIDTH, HEIGHT = 720.0, 140.0
_MARGIN = 4.0  # above the highest value
_SPAN = timedelta(hours=1)
SERIES = ("accepted", "sent", "failed")


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its name, and its points as an SVG polyline has them."""

    name: str
    points: str


@dataclass(frozen=True, slots=True)
class RateChart:
    """The rates of the last hour: `top` is the highest rate, `data` the same series as columns for the browser's chart."""

    lines: list[Line]
    top: float
    data: dict[str, list[float]]


def rate_chart(rates: Sequence[Rates], now: datetime) -> RateChart:
    """The chart of these rates. `now` is its right edge."""
    start = now - _SPAN
    columns = {name: [float(getattr(each, name)) for each in rates] for name in SERIES}
    top = max((value for column in columns.values() for value in column), default=0.0)
    places = [max(0.0, (each.at - start) / _SPAN * WIDTH) for each in rates]
    lines = [Line(name, _points(places, column, top)) for name, column in columns.items()]
    rounded = {name: [round(value, 3) for value in column] for name, column in columns.items()}
    return RateChart(lines, top, {"at": [each.at.timestamp() for each in rates], **rounded})


def _points(places: Sequence[float], values: Sequence[float], top: float) -> str:
    scale = (HEIGHT - _MARGIN) / top if top else 0.0
    return " ".join(f"{x:.1f},{HEIGHT - value * scale:.1f}" for x, value in zip(places, values, strict=True))
