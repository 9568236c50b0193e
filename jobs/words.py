"""Word counts: one function, so that all reports agree."""

from collections import Counter
from collections.abc import Iterable


def count_words(text: str) -> int:
    """The number of words in a text: its runs of characters between Unicode white space, as in `str.split()`."""
    return len(text.split())


def total_words(posts: Iterable[tuple[int, str]]) -> dict[int, int]:
    """Words by user id, ascending, over posts of (user id, text). Memory grows with the users, not with the posts."""
    totals: Counter[int] = Counter()
    for user_id, text in posts:
        totals[user_id] += count_words(text)
    return dict(sorted(totals.items()))
