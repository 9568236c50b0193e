"""Counting words: one function, so that every report counts alike."""

from collections import Counter
from collections.abc import Iterable


def count_words(text: str) -> int:
    """How many words a text has: runs of characters between Unicode white space, as `str.split()` finds them."""
    return len(text.split())


def total_words(posts: Iterable[tuple[int, str]]) -> dict[int, int]:
    """Words per user over posts of (user id, text), by ascending user id. Holds one number a user, however many posts."""
    totals: Counter[int] = Counter()
    for user_id, text in posts:
        totals[user_id] += count_words(text)
    return dict(sorted(totals.items()))
