"""The comparison as an SVG chart: one panel a figure, one bar a system, a whisker from the least to the greatest."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.peers.report import BARE, OWN
from benchmarks.peers.summary import Spread, figure

PANELS = (
    ("accept_per_second", "Accepted per second", 0),
    ("sustained_per_second", "Accepted and delivered per second, sustained", 0),
    ("status_per_second", "Status answers per second", 0),
    ("latency_p50_ms", "POST to provider, unloaded, p50 in milliseconds (less is better)", 1),
)
WIDTH, LABEL, VALUE = 760, 150, 90
BAR, GAP, TITLE, SPACE = 16, 8, 30, 20
_COLOURS = {OWN: "#0b7285", BARE: "#adb5bd"}
_PEER = "#74a9cf"


def chart(results: Mapping[str, Any]) -> str:
    """The whole SVG document."""
    parts, top = [], 10
    for name, title, digits in PANELS:
        bars = [
            (system, described["title"], found)
            for system, described in results["systems"].items()
            if (found := figure(results["runs"], system, name)) is not None
        ]
        if bars:
            parts.append(_panel(title, bars, digits, top))
            top += TITLE + len(bars) * (BAR + GAP) + SPACE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">\n'
        f'<title>Posthaste and its peers</title>\n<rect width="{WIDTH}" height="{top}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(title: str, bars: Sequence[tuple[str, str, Spread]], digits: int, top: int) -> str:
    scale = (WIDTH - LABEL - VALUE) / max(found.high for _, _, found in bars)
    lines = [f'<text x="0" y="{top + 14}" font-weight="600" fill="#212529">{escape(title)}</text>']
    for row, (system, label, found) in enumerate(bars):
        y = top + TITLE + row * (BAR + GAP)
        middle, end = y + BAR / 2, LABEL + found.median * scale
        low, high = LABEL + found.low * scale, LABEL + found.high * scale
        lines += [
            f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end" fill="#212529">{escape(label)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{end - LABEL:.1f}" height="{BAR}" fill="{_COLOURS.get(system, _PEER)}"/>',
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {y + 4}v8M{high:.1f} {y + 4}v8" stroke="#212529"/>',
            f'<text x="{max(end, high) + 6:.1f}" y="{y + 12}" fill="#212529">{found.median:,.{digits}f}</text>',
        ]
    return "\n".join(lines)
