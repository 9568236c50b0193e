"""Counting words, and generating posts."""

from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from cli.posts import make_posts, parse_range
from jobs.words import count_words, total_words

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("   ", 0),
        ("one", 1),
        (" a  b\tc\nd ", 4),
        ("a\u00a0b", 2),
        ("a\u3000b", 2),
        ("a\x1cb", 2),
        ("😀 😀", 2),
    ],
)
def test_words_are_what_white_space_separates(text: str, words: int) -> None:
    assert count_words(text) == words


@given(st.lists(st.tuples(st.integers(1, 5), st.text())))
def test_totals_are_the_sums_by_ascending_user(posts: list[tuple[int, str]]) -> None:
    totals = total_words(posts)
    assert list(totals) == sorted({user for user, _ in posts})
    assert sum(totals.values()) == sum(len(text.split()) for _, text in posts)


def test_the_same_seed_makes_the_same_posts() -> None:
    first, again, other = (list(make_posts(50, 7, (10, 20), seed, NOW)) for seed in (1, 1, 2))
    assert first == again != other


def test_generated_posts_keep_to_the_requested_bounds() -> None:
    posts = list(make_posts(2000, 7, (10, 20), 3, NOW))
    assert {post.user_id for post in posts} == set(range(1, 8))
    assert {count_words(post.context) for post in posts} == set(range(10, 21))
    assert all(NOW - timedelta(days=365) <= post.created_at <= NOW for post in posts)


def test_ranges() -> None:
    assert parse_range("10:100") == (10, 100)
    for bad in ("10", "100:10", "a:b", "-1:5", ":", ""):
        with pytest.raises(typer.BadParameter):
            parse_range(bad)
