"""Bins of a histogram: posts by ranges of their number of words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count

_COVERED = 0.99  # of the posts have bins of equal width; a long tail shares the last bin


@dataclass(frozen=True, slots=True)
class Bin:
    """Posts with `low` to `high` words. `high` None: with `low` words or more."""

    low: int
    high: int | None
    posts: int

    @property
    def label(self) -> str:
        if self.high is None:
            return f"{self.low:,}+"
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"  # noqa: RUF001  a range


def make_bins(pairs: Sequence[tuple[int, int]], most: int = 20) -> list[Bin]:
    """At most `most` adjacent bins, of a round width, for pairs of a number of words and the posts that have it.

    The bins cover the range from the shortest post. The longest hundredth of the posts shares an open bin if it needs more.
    """
    ordered = sorted(pair for pair in pairs if pair[1] > 0)
    if not ordered:
        return []
    shortest, longest = ordered[0][0], ordered[-1][0]
    total = sum(posts for _, posts in ordered)
    sums = accumulate(posts for _, posts in ordered)
    usual = next(words for (words, _), below in zip(ordered, sums, strict=True) if below >= _COVERED * total)
    width = next(
        each for each in _widths() if longest // each - shortest // each < most or usual // each - shortest // each < most - 1
    )
    first = shortest // width
    closed = most if longest // width - first < most else usual // width - first + 1
    posts_of = [0] * (closed + 1)  # the last one: of the open bin
    for words, posts in ordered:
        posts_of[min(words // width - first, closed)] += posts
    bins = [Bin((first + n) * width, (first + n + 1) * width - 1, posts_of[n]) for n in range(closed)]
    if posts_of[closed]:
        return [*bins, Bin((first + closed) * width, None, posts_of[closed])]
    return bins[: longest // width - first + 1]


def _widths() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, …"""
    for power in count():
        yield from (10**power, 2 * 10**power, 5 * 10**power)
