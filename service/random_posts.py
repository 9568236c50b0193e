"""Random posts for COPY, in chunks that depend on the recipe and their number only."""

import numpy as np
from faker import Faker
from numpy.typing import NDArray

from infra.postgres.copy_format import frame_posts
from service.post_recipe import Recipe
from service.zipf import draw_zipf

_DAY_MICROSECONDS = 86_400 * 10**6


class RandomPosts:
    """Makes the posts of a recipe. The words are those of Faker's list."""

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        vocabulary = [word.encode() for word in Faker().get_words_list()]
        # A post's first word is taken from the second half, all others with their space from the first.
        tokens = [b" " + word for word in vocabulary] + vocabulary
        self._vocabulary = len(vocabulary)
        self._tokens: NDArray[np.object_] = np.array(tokens, object)
        self._sizes = np.array([len(token) for token in tokens], np.int32)

    def chunk(self, number: int) -> bytes:
        """The posts of one chunk in COPY's binary format."""
        recipe = self._recipe
        generator = np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(number,)))
        count = recipe.posts_in(number)
        user_ids = _users(generator, recipe, count)
        lengths = generator.integers(recipe.min_words, recipe.max_words, count, endpoint=True)
        starts = np.cumsum(lengths + 1) - (lengths + 1)  # each post's head has a place before its words
        picks = generator.integers(0, self._vocabulary, int(lengths.sum()) + count, np.uint16)
        picks[starts[lengths > 0] + 1] += self._vocabulary
        ages = generator.integers(0, recipe.days * _DAY_MICROSECONDS, count)
        sizes = self._sizes.take(picks)
        sizes[starts] = 0
        framing = frame_posts(user_ids, np.add.reduceat(sizes, starts), recipe.end - ages)
        tokens = self._tokens.take(picks)
        tokens[starts] = framing.heads
        return b"".join(tokens.tolist()) + framing.tail


def _users(generator: np.random.Generator, recipe: Recipe, count: int) -> NDArray[np.int64]:
    if recipe.skew == "zipf":
        return draw_zipf(generator, recipe.users, count)
    return generator.integers(1, recipe.users, count, endpoint=True)
