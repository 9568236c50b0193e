"""`posthaste report`: submit a report, show its progress, print its result."""

import json
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from cli.client import REPORTS, ApiError, BaseUrl, Client, Deadline, TimeIsUp, configured_client, until_end
from cli.terminal import AsJson, console, exit_on, fail, problems, say

BAR_WIDTH = 50

Row = dict[str, int]  # user_id, total_words


def report(
    form: Annotated[Literal["table", "json", "csv"], typer.Option("--format", help="The form of the result.")] = "table",
    top: Annotated[
        int | None, typer.Option(min=1, help="Only this number of users, most words first. Default: 10 in the table, else all.")
    ] = None,
    plot: Annotated[bool, typer.Option(help="Also draw a bar for each user of the table.")] = False,
    timeout: Deadline = 3600.0,
    url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Submit a report of words per user, show its progress, print its result. Exit 0: completed, 1: failure, 3: timeout."""
    form = "json" if as_json else form
    client = configured_client(url)
    with exit_on(ApiError), exit_on(TimeIsUp, code=3, hint="; `posthaste wait ID` waits longer"):
        state = _run(client, timeout)
        if state["status"] != "completed":
            last = f"; the last attempt: {state['last_reason']}" if state["last_reason"] else ""
            fail(f"report {state['id']} ended as {state['status']} ({state['reason']}{last})")
        text = client.text(f"{REPORTS}/{state['id']}/result?format={'csv' if form == 'csv' and not top else 'json'}")
    if form != "table" and top is None:
        print(text.removesuffix("\r\n"))
        return
    rows: list[Row] = json.loads(text)["data"]
    first = sorted(rows, key=lambda row: (-row["total_words"], row["user_id"]))[: top or 10]
    if form == "json":
        print(json.dumps({"data": first}))
        return
    if form == "csv":
        print("\r\n".join(["user_id,total_words", *(f"{row['user_id']},{row['total_words']}" for row in first)]))
        return
    words = sum(row["total_words"] for row in rows)
    say(f"Top {len(first)} of {len(rows):,} users, {words:,} words in all")
    table = Table(Column("user", justify="right"), Column("words", justify="right"))
    for row in first:
        table.add_row(str(row["user_id"]), f"{row['total_words']:,}")
    console.print(table)
    if plot:
        console.print(_plot(first), highlight=False)


def _run(client: Client, seconds: float) -> dict[str, Any]:
    """Submit a report and show its progress until it ends. Returns its last state."""
    submitted = client.call("/api/2.0/report/posts", {})
    problems.print(f"report {submitted['id']} {submitted['status']}", highlight=False)
    columns = (TextColumn("{task.description:>10}"), BarColumn(40), TextColumn("{task.fields[posts]}"), TimeElapsedColumn())
    with Progress(*columns, console=problems, transient=True) as bar:
        task = bar.add_task("queued", total=None, posts="")

        def show(state: dict[str, Any]) -> None:
            read = state["progress"] or {}
            total, done = read.get("of_partitions"), read.get("partitions") or 0
            bar.update(task, description=state["status"], completed=done, total=total, posts=_progress(read))

        return until_end(lambda: client.call(f"{REPORTS}/{submitted['id']}"), seconds, show)


def _progress(read: dict[str, Any]) -> str:
    """The counted posts, their rate, and the time left; as far as they are known."""
    if not read:
        return ""
    parts = [f"{read['posts']:,} posts" + (f" of about {read['of_about']:,}" if read["of_about"] else "")]
    if read.get("posts_per_second"):
        parts.append(f"{read['posts_per_second']:,}/s")
    if read.get("seconds_left"):
        parts.append(f"{read['seconds_left']:.0f} s left")
    if read.get("restarts"):
        parts.append(f"restarted {read['restarts']} times: the snapshot was lost")
    return ", ".join(parts)


def _plot(rows: list[Row]) -> str:
    most = max((row["total_words"] for row in rows), default=0) or 1
    width = max((len(str(row["user_id"])) for row in rows), default=0)
    return "\n".join(
        f"{row['user_id']:>{width}} {'█' * round(BAR_WIDTH * row['total_words'] / most)} {row['total_words']:,}" for row in rows
    )
