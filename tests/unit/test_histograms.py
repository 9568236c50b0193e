"""Bins hold every post once, are few, adjacent and of a round width."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jobs.histograms import Bin, make_bins

PAIRS = st.dictionaries(st.integers(0, 10**6), st.integers(0, 10**9), max_size=60)


@given(PAIRS, st.integers(2, 30))
def test_each_post_is_in_one_bin(histogram: dict[int, int], most: int) -> None:
    bins = make_bins(list(histogram.items()), most)
    assert len(bins) <= most
    assert sum(each.posts for each in bins) == sum(histogram.values())
    for each, following in pairwise(bins):
        assert each.high is not None and following.low == each.high + 1
    for each in bins:
        inside = [
            posts for words, posts in histogram.items() if each.low <= words <= (10**6 if each.high is None else each.high)
        ]
        assert each.posts == sum(inside)
    assert not bins or (bins[0].posts and bins[-1].posts)


def test_short_ranges_have_a_bin_for_each_length() -> None:
    assert make_bins([(3, 1), (5, 2)]) == [Bin(3, 3, 1), Bin(4, 4, 0), Bin(5, 5, 2)]
    assert make_bins([]) == []


def test_a_long_tail_shares_an_open_bin() -> None:
    bins = make_bins([*((words, 100) for words in range(100)), (50_000, 3)], 11)
    assert [each.label for each in bins] == [*(f"{n}–{n + 9}" for n in range(0, 100, 10)), "100+"]  # noqa: RUF001
    assert bins[-1] == Bin(100, None, 3)
