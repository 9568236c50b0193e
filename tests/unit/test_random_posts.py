"""Random posts: their bounds, their repeatability, their skew."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from faker import Faker

from jobs.words import count_words
from service.post_recipe import Recipe
from service.random_posts import RandomPosts
from service.zipf import EXPONENT, draw_zipf
from tests.support.posts import read_binary

END = 1_764_000_000_000_000
DAY = 86_400_000_000
RECIPE = Recipe(count=12_000, users=7, min_words=10, max_words=20, seed=3, end=END)


def _pairs(recipe: Recipe, chunk: int = 0) -> list[tuple[int, str]]:
    return [(user, text) for user, text, _ in read_binary(RandomPosts(recipe).chunk(chunk))]


def test_posts_keep_to_the_recipe() -> None:
    maker = RandomPosts(RECIPE)
    posts = [post for chunk in range(RECIPE.chunks) for post in read_binary(maker.chunk(chunk))]
    assert len(posts) == 12_000
    assert {user for user, _, _ in posts} == set(range(1, 8))
    assert {count_words(text) for _, text, _ in posts} == set(range(10, 21))
    assert {word for _, text, _ in posts for word in text.split(" ")} == set(Faker().get_words_list())
    ages = [END - instant for _, _, instant in posts]
    assert 0 <= min(ages) < DAY < 364 * DAY < max(ages) < 365 * DAY
    assert ages != sorted(ages) != ages[::-1]


def test_equal_recipes_make_equal_posts_and_every_chunk_and_seed_others() -> None:
    assert _pairs(RECIPE) == _pairs(replace(RECIPE, end=END + 1, days=3))
    others = [_pairs(RECIPE, 1), _pairs(replace(RECIPE, seed=4)), _pairs(replace(RECIPE, seed=3 + 2**64))]
    assert all(_pairs(RECIPE) != other for other in others)


def test_days_bound_the_ages() -> None:
    ages = [END - instant for _, _, instant in read_binary(RandomPosts(replace(RECIPE, days=2)).chunk(0))]
    assert min(ages) >= 0 and DAY < max(ages) < 2 * DAY


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (1, 1), (0, 3)])
def test_short_and_empty_texts(low: int, high: int) -> None:
    pairs = _pairs(replace(RECIPE, count=50, min_words=low, max_words=high))
    assert {count_words(text) for _, text in pairs} == set(range(low, high + 1))
    assert all(text == " ".join(text.split()) for _, text in pairs)


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({"count": 1}, [1]),
        ({"count": 5_000}, [5_000]),
        ({"count": 5_001}, [5_000, 1]),
        ({"count": 5, "max_words": 250_000}, [2, 2, 1]),
        ({"count": 2, "max_words": 1_000_000}, [1, 1]),
        ({"count": 2, "min_words": 0, "max_words": 0}, [2]),
    ],
)
def test_chunks_are_bounded_by_posts_and_words(fields: dict[str, Any], sizes: list[int]) -> None:
    recipe = replace(RECIPE, **fields)
    assert [recipe.posts_in(chunk) for chunk in range(recipe.chunks)] == sizes


@pytest.mark.parametrize("numbers", [1, 2, 100, 2**31 - 1])
def test_zipf_draws_every_number_by_its_probability(numbers: int) -> None:
    """The draws are seeded. The counts of the ten first numbers lie within four standard deviations."""
    draws = 200_000
    drawn = draw_zipf(np.random.default_rng(5), numbers, draws)
    assert len(drawn) == draws and drawn.min() == 1 and drawn.max() <= numbers
    counts, total = Counter(drawn.tolist()), _harmonic(numbers)
    for number in range(1, min(numbers, 10) + 1):
        share = number**-EXPONENT / total
        assert abs(counts[number] - draws * share) <= 4 * (draws * share * (1 - share)) ** 0.5, number


def test_zipf_is_a_skew_of_the_users() -> None:
    users = Counter(user for user, _ in _pairs(replace(RECIPE, count=5_000, users=1_000, skew="zipf")))
    assert users.most_common(1)[0][0] == 1
    assert 0.12 < users[1] / 5_000 < 0.15  # 0.129 are expected
    assert sum(users[user] for user in range(1, 101)) > 0.6 * 5_000


def _harmonic(numbers: int) -> float:
    """The sum of k ** -EXPONENT for k up to `numbers`: exact up to a million, then by Euler and Maclaurin's formula."""
    last = min(numbers, 10**6)
    exact = float((np.arange(1, last + 1, dtype=float) ** -EXPONENT).sum())
    rest = 1 - EXPONENT
    ends = (numbers**-EXPONENT - last**-EXPONENT) / 2
    return float(exact + (numbers**rest - last**rest) / rest + ends)
