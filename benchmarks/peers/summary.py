"""Medians, spreads and ratios of repeated runs. A ratio divides figures of the same repeat."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Runs = Sequence[Mapping[str, Any]]  # {"system", "repeat", "figures": {name: number}}


@dataclass(frozen=True)
class Spread:
    """The median of some values, with the least and the greatest."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """None without values."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def by_repeat(runs: Runs, system: str, name: str) -> dict[int, float]:
    """One figure of one system, by repeat. Runs without it are absent."""
    return {run["repeat"]: run["figures"][name] for run in runs if run["system"] == system and name in run["figures"]}


def figure(runs: Runs, system: str, name: str) -> Spread | None:
    return spread(list(by_repeat(runs, system, name).values()))


def ratio(runs: Runs, system: str, base: str, name: str) -> Spread | None:
    """The figure of `system` divided by that of `base`, repeat by repeat."""
    ours, theirs = by_repeat(runs, system, name), by_repeat(runs, base, name)
    return spread([ours[repeat] / theirs[repeat] for repeat in ours if theirs.get(repeat)])


def best(runs: Runs, systems: Sequence[str], name: str, higher_is_better: bool) -> str | None:
    """The system with the best median."""
    medians = {system: found.median for system in systems if (found := figure(runs, system, name)) is not None}
    if not medians:
        return None
    return (max if higher_is_better else min)(medians, key=medians.__getitem__)
