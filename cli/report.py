"""`posthaste report`: submit a report, show its progress, print its result."""

import json
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.client import ApiError, BaseUrl, Client, Deadline, TimeIsUp, configured_client, until_end
from cli.terminal import console, exit_on, fail, problems, say

BAR_WIDTH = 50

Row = dict[str, int]  # user_id, total_words


class Form(StrEnum):
    """Forms of the result."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def report(
    form: Annotated[Form, typer.Option("--format", help="The form of the result.")] = Form.TABLE,
    top: Annotated[int, typer.Option(min=1, help="Number of users in the table and the plot.")] = 10,
    plot: Annotated[bool, typer.Option(help="Also draw a bar for each user of the table.")] = False,
    timeout: Deadline = 3600.0,
    url: BaseUrl = None,
) -> None:
    """Submit a report of words per user, show its progress, print its result. Exit 0: completed, 1: failure, 3: timeout."""
    client = configured_client(url)
    with exit_on(ApiError), exit_on(TimeIsUp, code=3, hint="; `posthaste wait ID` waits longer"):
        state = _run(client, problems, timeout)
        if state["status"] != "completed":
            fail(_failure(state))
        text = client.result(UUID(state["id"]), "csv" if form is Form.CSV else "json")
    if form is not Form.TABLE:
        print(text.removesuffix("\r\n"))
        return
    rows: list[Row] = json.loads(text)["data"]
    first = sorted(rows, key=lambda row: (-row["total_words"], row["user_id"]))[:top]
    words = sum(row["total_words"] for row in rows)
    say(f"Top {len(first)} of {len(rows):,} users, {words:,} words in all")
    console.print(_table(first))
    if plot:
        console.print(_plot(first), highlight=False)


def _run(client: Client, progress: Console, seconds: float) -> dict[str, Any]:
    """Submit a report and show its progress until it ends. Returns its last state.

    Raises:
        ApiError: the API does not answer. TimeIsUp: the report did not end in time.
    """
    submitted = client.submit_report()
    id_ = UUID(submitted["id"])
    progress.print(f"report {id_} {submitted['status']}", highlight=False)
    columns = (TextColumn("{task.description:>10}"), BarColumn(40), TextColumn("{task.fields[posts]}"), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True) as bar:
        task = bar.add_task("queued", total=None, posts="")

        def show(state: dict[str, Any]) -> None:
            read = state["progress"] or {}
            total = read.get("of_about")
            posts = f"{read['posts']:,} posts" + (f" of about {total:,}" if total else "") if read else ""
            bar.update(task, description=state["status"], completed=read.get("posts", 0), total=total, posts=posts)

        return until_end(lambda: client.report(id_), seconds, show)


def _failure(state: dict[str, Any]) -> str:
    last = f"; the last attempt: {state['last_reason']}" if state["last_reason"] else ""
    return f"report {state['id']} ended as {state['status']} ({state['reason']}{last})"


def _table(rows: list[Row]) -> Table:
    table = Table("user", "words")
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        table.add_row(str(row["user_id"]), f"{row['total_words']:,}")
    return table


def _plot(rows: list[Row]) -> str:
    most = max((row["total_words"] for row in rows), default=0) or 1
    width = max((len(str(row["user_id"])) for row in rows), default=0)
    return "\n".join(
        f"{row['user_id']:>{width}} {'█' * round(BAR_WIDTH * row['total_words'] / most)} {row['total_words']:,}" for row in rows
    )
