"""`posthaste report` and `posthaste wait`: submit a report, watch it, show its result; wait for any job."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.client import Client
from jobs.lifecycle import ENDS, Status

POLL_SECONDS = 0.1
GOOD_ENDS = {Status.SENT, Status.DELIVERED, Status.COMPLETED}
BAR_WIDTH = 50


class TimeIsUp(Exception):
    """The job has not ended within the time that was given; it goes on."""


def run(client: Client, progress: Console, seconds: float) -> dict[str, Any]:
    """Submit a report and watch it until it ends; its last state.

    Raises:
        ApiError: the API does not answer. TimeIsUp: see there.
    """
    submitted = client.submit_report()
    id_ = UUID(submitted["id"])
    progress.print(f"report {id_} {submitted['status']}", highlight=False)
    columns = (TextColumn("{task.description:>10}"), BarColumn(40), TextColumn("{task.fields[posts]}"), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True) as bar:
        task = bar.add_task("queued", total=None, posts="")

        def show(state: dict[str, Any]) -> None:
            far = state["progress"] or {}
            about = far.get("of_about")
            posts = f"{far['posts']:,} posts" + (f" of about {about:,}" if about else "") if far else ""
            bar.update(task, description=state["status"], completed=far.get("posts", 0), total=about, posts=posts)

        return _until_end(lambda: client.report(id_), show, seconds)


def wait(client: Client, id_: UUID, seconds: float) -> Status:
    """The status in which a message or a report ends.

    Raises:
        ApiError: there is no such job, or the API does not answer. TimeIsUp: see there.
    """
    look = client.report if client.is_report(id_) else client.message
    return Status(_until_end(lambda: look(id_), lambda _: None, seconds)["status"])


def _until_end(look: Callable[[], dict[str, Any]], show: Callable[[dict[str, Any]], None], seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        state = look()
        show(state)
        if Status(state["status"]) in ENDS:
            return state
        if time.monotonic() > deadline:
            raise TimeIsUp(f"{state['id']} is {state['status']} after {seconds:g} s, and goes on")
        time.sleep(POLL_SECONDS)


def why(state: dict[str, Any]) -> str:
    """Why a report has no result, for people."""
    last = f"; the last attempt: {state['last_reason']}" if state["last_reason"] else ""
    return f"report {state['id']} ended as {state['status']} ({state['reason']}{last})"


def summary(rows: list[dict[str, int]], top: int) -> str:
    words = sum(row["total_words"] for row in rows)
    return f"Top {min(top, len(rows))} of {len(rows):,} users, {words:,} words in all"


def table(rows: list[dict[str, int]], top: int) -> Table:
    """The users with the most words."""
    shown = _top(rows, top)
    made = Table("user", "words")
    for column in made.columns:
        column.justify = "right"
    for row in shown:
        made.add_row(str(row["user_id"]), f"{row['total_words']:,}")
    return made


def plot(rows: list[dict[str, int]], top: int) -> str:
    """A bar for each of the users with the most words."""
    shown = _top(rows, top)
    most = max((row["total_words"] for row in shown), default=0)
    width = max((len(str(row["user_id"])) for row in shown), default=0)
    return "\n".join(
        f"{row['user_id']:>{width}} {'█' * round(BAR_WIDTH * row['total_words'] / (most or 1))} {row['total_words']:,}"
        for row in shown
    )


def _top(rows: list[dict[str, int]], top: int) -> list[dict[str, int]]:
    return sorted(rows, key=lambda row: (-row["total_words"], row["user_id"]))[:top]
