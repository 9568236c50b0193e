"""Geometry of a report's charts, which the server draws as SVG: the top users, and posts by their number of words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from infra.postgres.results import Total
from jobs.histograms import Bin, make_bins

WIDTH = 480.0
_ROW, _BAR = 26.0, 18.0  # heights of a row of the chart of users, and of its bar
_NAMES, _NUMBERS = 100.0, 130.0  # widths beside the bars
_TOP, _PLOT = 30.0, 180.0  # above the highest bar of the histogram, and the height of the plot
_LEFT, _BELOW = 64.0, 48.0  # beside and below the plot
_LABELS = 8  # at most, below the bars
BINS = 20


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its labels. `value` is the text of its number, `tick` the text on the axis, empty for a crowded axis."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: str
    tick: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart. `description` says in a sentence what its picture shows. `ticks`: heights and labels of lines of a scale."""

    name: str
    title: str
    description: str
    width: float
    height: float
    bars: list[Bar]
    ticks: list[tuple[float, str]]


def users_chart(top: Sequence[Total]) -> Chart:
    """A horizontal bar for each user; `top`: the users with the most words, in this order."""
    most = max((row.words for row in top), default=0) or 1
    space = WIDTH - _NAMES - _NUMBERS
    bars = [
        Bar(_NAMES, n * _ROW + (_ROW - _BAR) / 2, round(space * row.words / most, 1), _BAR, str(row.user_id), f"{row.words:,}")
        for n, row in enumerate(top)
    ]
    title = "The user with the most words" if len(top) == 1 else f"The {len(top)} users with the most words"
    first = f"User {bars[0].label} has the most words: {bars[0].value}." if bars else ""
    return Chart("users", title, f"A bar for each user. {first}", WIDTH, len(bars) * _ROW, bars, [])


def histogram_chart(pairs: Sequence[tuple[int, int]]) -> Chart:
    """A vertical bar for each range of words. `pairs`: a number of words, and the posts that have it."""
    bins = make_bins(pairs, BINS)
    step, scale = _scale(max((each.posts for each in bins), default=0))
    space, labelled = (WIDTH - _LEFT) / (len(bins) or 1), math.ceil(len(bins) / _LABELS)
    bars = [_column(each, n, space, scale, _tick(bins, n, labelled)) for n, each in enumerate(bins)]
    ticks = [(_TOP + _PLOT - n * step * scale, f"{n * step:,}") for n in range(1 + int(_PLOT / (step * scale) + 1e-9))]
    height = _TOP + _PLOT + _BELOW
    return Chart("histogram", "Posts by their number of words", _mode(bins), WIDTH, height, bars, ticks)


def _column(bin_: Bin, n: int, space: float, scale: float, tick: str) -> Bar:
    height, gap = bin_.posts * scale, min(4.0, space / 6)
    left, top = _LEFT + n * space + gap / 2, _TOP + _PLOT - height
    return Bar(round(left, 1), round(top, 1), round(space - gap, 1), round(height, 1), bin_.label, f"{bin_.posts:,}", tick)


def _tick(bins: Sequence[Bin], n: int, labelled: int) -> str:
    """The label below the n-th bar. An open bin has one always, so its neighbours have none."""
    if bins[n].high is None:
        return bins[n].label
    has_room = bins[-1].high is not None or len(bins) - 1 - n >= labelled
    return f"{bins[n].low:,}" if n % labelled == 0 and has_room else ""


def _mode(bins: Sequence[Bin]) -> str:
    if not bins:
        return "There are no posts."
    most = max(bins, key=lambda each: each.posts)
    return f"A bar for each range of words. The most posts have {most.label} words: {most.posts:,}."


def _scale(most: int) -> tuple[int, float]:
    """The step between lines, a round number, and the height of one post. The highest line is not below `most`."""
    step = 1
    for step in (factor * 10**power for power in range(20) for factor in (1, 2, 5)):
        if 4 * step >= most:
            break
    lines = max(1, math.ceil(most / step))
    return step, _PLOT / (lines * step)
