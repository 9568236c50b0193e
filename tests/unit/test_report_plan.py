"""The plan covers every id once."""

from hypothesis import given
from hypothesis import strategies as st

from consumers.reports.plan import MOST_PARTITIONS, MOST_POSTS, plan

IDS = st.integers(-(2**40), 2**40)


@given(IDS, st.integers(0, 2**30), st.none() | st.integers(0, 2**30), st.integers(1, 64))
def test_the_ranges_are_adjacent_and_cover_every_id(low: int, span: int, estimate: int | None, lanes: int) -> None:
    bounds = plan(low, low + span, estimate, lanes)
    assert (bounds[0], bounds[-1]) == (low - 1, low + span)
    assert bounds == sorted(set(bounds))
    assert len(bounds) - 1 <= MOST_PARTITIONS


def test_no_posts_have_no_partition() -> None:
    assert plan(None, None, None, 2) == [0]


def test_one_post_has_one_partition() -> None:
    assert plan(7, 7, None, 64) == [6, 7]


def test_partitions_are_small_and_every_lane_has_some() -> None:
    assert len(plan(1, 10_000_000, 10_000_000, 2)) - 1 == 10_000_000 // MOST_POSTS
    assert len(plan(1, 200_000, 200_000, 8)) - 1 == 32
    assert len(plan(1, 20_000, 20_000, 2)) - 1 == 8
    assert len(plan(1, 1000, 1000, 8)) - 1 == 1


def test_sparse_ids_are_planned_by_the_estimate_and_dense_ones_by_the_ids() -> None:
    assert len(plan(1, 10**12, 1_000_000, 2)) - 1 == 10
    assert len(plan(1, 10**12, None, 2)) - 1 == MOST_PARTITIONS
    assert len(plan(1, 300_000, 10**9, 1)) - 1 == 4
