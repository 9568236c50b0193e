"""Counting words, and ranges of numbers of words."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from cli.posts import parse_range
from jobs.words import count_words, total_words


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


def test_ranges() -> None:
    assert parse_range("10:100") == (10, 100)
    for bad in ("10", "100:10", "a:b", "-1:5", ":", "", "1:1000001"):
        with pytest.raises(typer.BadParameter):
            parse_range(bad)
