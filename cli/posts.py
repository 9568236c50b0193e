"""`posthaste posts`: seed, truncate and count the posts that reports read."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from faker import Faker
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.session import read_settings
from cli.terminal import AsJson, Yes, confirm, console, exit_on, print_json, say
from infra.postgres.errors import Unavailable
from infra.postgres.posts import Busy, Post, Posts

YEAR = timedelta(days=365)

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def seed(
    count: Annotated[
        int, typer.Option(min=1, help="Number of posts to append: usually 1,000 to 5,000, possibly millions.")
    ] = 1000,
    users: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="Number of users: their ids are 1 to this number.")] = 100,
    words: Annotated[str, typer.Option(help="Words in a post, MIN:MAX.")] = "10:100",
    seed: Annotated[int, typer.Option(help="The same seed makes the same users and texts.")] = 1,
) -> None:
    """Append random posts."""
    batch = make_posts(count, users, parse_range(words), seed, datetime.now(UTC))
    posts, started = Posts(read_settings().database_url), time.monotonic()
    columns = (TextColumn("posts"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with exit_on(Unavailable), Progress(*columns, console=console) as progress:
        posts.fill(progress.track(batch, total=count))
    seconds = time.monotonic() - started
    say(f"posts: {count} written in {seconds:.1f} s ({count / seconds:.0f}/s)")


@app.command()
def truncate(yes: Yes = False) -> None:
    """Delete all posts."""
    if not yes:
        confirm("Delete all posts?")
    with exit_on(Unavailable, Busy):
        Posts(read_settings().database_url).truncate()
    say("posts: the table is empty")


@app.command()
def stats(as_json: AsJson = False) -> None:
    """Count posts and users."""
    with exit_on(Unavailable):
        table = Posts(read_settings().database_url).stats()
    if as_json:
        print_json(asdict(table))
        return
    say(f"posts: {table.posts} of {table.users} users")
    if table.oldest and table.newest:
        say(f"posts: from {table.oldest:%Y-%m-%d} to {table.newest:%Y-%m-%d}")


def parse_range(text: str) -> tuple[int, int]:
    """Parse `10:100` into (10, 100). Raises BadParameter unless the text is MIN:MAX with 0 <= MIN <= MAX."""
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise typer.BadParameter(f"--words: {text!r} is not a range of the form MIN:MAX, for example 10:100")
    return int(low), int(high)


def make_posts(count: int, users: int, words: tuple[int, int], seed: int, now: datetime) -> Iterator[Post]:
    """Make `count` random posts: user ids uniform in 1..users, lengths in `words`, instants over the year before `now`.

    A seeded Faker draws from its list of words, so the same seed makes the same users and texts.
    """
    fake = Faker()
    fake.seed_instance(seed)
    draw, vocabulary = fake.random, fake.get_words_list()
    for _ in range(count):
        text = " ".join(draw.choices(vocabulary, k=draw.randint(*words)))
        yield Post(draw.randint(1, users), text, now - draw.random() * YEAR)
