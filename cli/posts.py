"""`posthaste posts`: fills the posts table with seeded random texts, empties it, and says what is in it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from faker import Faker
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from infra.postgres.posts import Post, Posts

SECONDS_OF_A_YEAR = 365 * 24 * 3600


class BadRange(ValueError):
    """The range is not of the form MIN:MAX with 0 <= MIN <= MAX."""


def parse_range(text: str) -> tuple[int, int]:
    """`10:100` as (10, 100).

    Raises:
        BadRange: anything else.
    """
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise BadRange(f"{text!r} is not a range of the form MIN:MAX, for example 10:100")
    return int(low), int(high)


def make_posts(count: int, users: int, words: tuple[int, int], seed: int, now: datetime) -> Iterator[Post]:
    """`count` random posts: user ids uniform in 1..users, lengths in `words`, instants over the year before `now`.

    The words are those of Faker's list, drawn by a seeded Faker: the same seed makes the same users and texts.
    """
    fake = Faker()
    fake.seed_instance(seed)
    draw, vocabulary = fake.random, fake.get_words_list()
    for _ in range(count):
        text = " ".join(draw.choices(vocabulary, k=draw.randint(*words)))
        yield Post(draw.randint(1, users), text, now - timedelta(seconds=draw.random() * SECONDS_OF_A_YEAR))


def seed(posts: Posts, console: Console, count: int, users: int, words: tuple[int, int], seed: int) -> None:
    """Append the posts, with a bar that shows how far, and how long it will take."""
    columns = (TextColumn("posts"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("posts", total=count)
        made = make_posts(count, users, words, seed, datetime.now(UTC))
        posts.fill(_counted(made, lambda n: progress.update(task, completed=n)))
    seconds = time.monotonic() - started
    console.print(f"posts: {count} written in {seconds:.1f} s ({count / seconds:.0f}/s)", highlight=False)


def _counted(posts: Iterator[Post], tell: object) -> Iterator[Post]:
    assert callable(tell)
    number = 0
    for number, post in enumerate(posts, 1):
        yield post
        if number % 1000 == 0:
            tell(number)
    tell(number)
