"""The recipe of random posts. Without NumPy, because the command imports it."""

from dataclasses import dataclass
from typing import Literal

Skew = Literal["uniform", "zipf"]

MAX_WORDS = 1_000_000  # of one post
_CHUNK_WORDS, _CHUNK_POSTS = 500_000, 5_000  # bounds of the memory of a process


@dataclass(frozen=True, slots=True)
class Recipe:
    """The posts to make.

    Users have the ids 1 to `users`. `skew`: `uniform`, or `zipf`, by which user 1 is the most active (see `service.zipf`).
    `min_words` to `max_words` words a post, uniformly. Instants: uniformly over the `days` before `end`, which is in
    microseconds since 1970. Equal `count`, `users`, words, `seed` and `skew` make equal pairs of user and text.
    """

    count: int
    users: int
    min_words: int
    max_words: int
    seed: int
    end: int
    skew: Skew = "uniform"
    days: int = 365

    @property
    def posts_a_chunk(self) -> int:
        return max(1, min(_CHUNK_POSTS, _CHUNK_WORDS // max(self.max_words, 1)))

    @property
    def chunks(self) -> int:
        return -(-self.count // self.posts_a_chunk)

    def posts_in(self, chunk: int) -> int:
        """The number of posts in the chunks 0 to `chunks` - 1: only the last one may be smaller."""
        return min(self.posts_a_chunk, self.count - chunk * self.posts_a_chunk)
