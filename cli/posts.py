"""`posthaste posts`: seed, truncate and count the posts that reports read."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli.session import read_settings
from cli.terminal import AsJson, Yes, confirm, exit_on, format_instant, print_json, problems, say
from infra.postgres.errors import Unavailable
from infra.postgres.posts import Busy, Posts
from infra.postgres.posts_stats import Stats
from service.post_recipe import MAX_WORDS, Recipe, Skew
from service.seeding import SeedingStopped
from service.seeding import seed as write

DEFAULT_COUNT = 1000
NOTE_SECONDS = 1.0  # a command that is silent for longer says why

app = typer.Typer(no_args_is_help=True, add_completion=False)


class RateColumn(ProgressColumn):
    """Posts a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


@app.command()
def seed(
    number: Annotated[
        int | None, typer.Argument(min=1, metavar="COUNT", help="Number of posts to append. Default: 1000.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="The same as COUNT.")] = None,
    users: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="Number of users: their ids are 1 to this number.")] = 100,
    words: Annotated[str, typer.Option(help="Words in a post, MIN:MAX.")] = "10:100",
    skew: Annotated[
        Skew, typer.Option(help="Distribution of posts to users. zipf (exponent 0.99): user 1 has the most.")
    ] = "uniform",
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Greatest age of a post in days.")] = 365,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds and options make equal users and texts.")] = 1,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Number of writing processes. Default: that of the processors.")
    ] = None,
) -> None:
    """Append random posts, in transactions of at most 5,000.

    Ctrl-C and errors end it with exit code 1. They keep the written posts, and the last line counts them.
    """
    if number and count:
        raise typer.BadParameter("COUNT and --count are the same; use one of them")
    total = number or count or DEFAULT_COUNT
    least, most = parse_range(words)
    recipe = Recipe(total, users, least, most, seed, time.time_ns() // 1000, skew, days)
    url, started = read_settings().database_url, time.monotonic()
    writers = processes or len(os.sched_getaffinity(0))
    stopped = exit_on(SeedingStopped, hint="; `posthaste posts truncate` deletes all posts")
    with exit_on(Unavailable, Busy), stopped, _stopped_by_ctrl_c() as stop, _progress(total) as advance:
        used = write(url, recipe, writers, advance, stop)
    seconds = time.monotonic() - started
    by = f"{used} process{'' if used == 1 else 'es'}"
    say(f"posts: {total} written in {seconds:.1f} s ({total / seconds:.0f}/s) by {by}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar in a terminal. The function advances it."""
    columns = (TextColumn("posts"), BarColumn(40), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=problems, disable=not problems.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda posts: progress.advance(task, posts)


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets. The second one ends the command as usual."""
    stop, usual = threading.Event(), signal.getsignal(signal.SIGINT)

    def handle(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)


@app.command()
def truncate(yes: Yes = False) -> None:
    """Delete all posts."""
    if not yes:
        confirm("Delete all posts?")
    with exit_on(Unavailable, Busy):
        Posts(read_settings().database_url).truncate()
    say("posts: the table is empty")


@app.command()
def stats(
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print Postgres' estimates, at once. Default: read and count all posts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count posts and users.

    JSON: `posts`, `users`, `oldest`, `newest`, `is_estimate`, `analyzed_at`. Estimates are null before the first ANALYZE.
    """
    posts = Posts(read_settings().database_url)
    with exit_on(Unavailable), _note("posts: counting; --estimate answers at once"):
        table = posts.estimate() if estimate else posts.stats()
    if as_json:
        print_json(asdict(table))
        return
    for line in describe(table):
        say(f"posts: {line}")


@contextmanager
def _note(text: str) -> Iterator[None]:
    """Print a note on standard error if the body takes longer than `NOTE_SECONDS`."""
    timer = threading.Timer(NOTE_SECONDS, say, (text, problems))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def describe(table: Stats) -> Iterator[str]:
    """The lines of `stats`."""
    if table.posts is None:
        yield "no estimate before the next ANALYZE; `posthaste posts stats` counts"
        return
    about = "about " if table.is_estimate else ""
    users = "an unknown number of" if table.users is None else f"{about}{table.users}"
    yield f"{about}{table.posts} of {users} users"
    if table.oldest and table.newest:
        yield f"from {about}{table.oldest:%Y-%m-%d} to {about}{table.newest:%Y-%m-%d}"
    if table.is_estimate:
        instant = format_instant(table.analyzed_at) if table.analyzed_at else "unknown"
        yield f"estimated by Postgres; last ANALYZE: {instant}"


def parse_range(text: str) -> tuple[int, int]:
    """Parse `10:100` into (10, 100). Raises BadParameter unless the text is MIN:MAX with 0 <= MIN <= MAX <= a million."""
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise typer.BadParameter(f"--words: {text!r} is not a range of the form MIN:MAX, for example 10:100")
    if int(high) > MAX_WORDS:
        raise typer.BadParameter(f"--words: a post has at most {MAX_WORDS} words")
    return int(low), int(high)
