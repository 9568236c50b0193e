"""`posthaste report`: submit a report, show its progress, print or save its result."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import REPORTS, ApiError, BaseUrl, Client, Deadline, TimeIsUp, configured_client, until_end
from cli.report_output import Output, print_top
from cli.terminal import AsJson, exit_on, fail, problems


def report(
    start: Annotated[datetime | None, typer.Option("--from", help="Only posts since this instant (UTC).")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="Only posts before this instant (UTC).")] = None,
    user_id: Annotated[list[int] | None, typer.Option(help="Only posts of this user. Repeatable.")] = None,
    order: Annotated[Literal["user_id", "words"], typer.Option(help="The order of the result.")] = "user_id",
    limit: Annotated[
        int | None, typer.Option(min=1, help="The result has this number of users: those with the most words.")
    ] = None,
    histogram: Annotated[bool, typer.Option("--histogram", help="Also count posts by their number of words.")] = False,
    form: Annotated[
        Literal["table", "json", "csv", "parquet", "arrow"], typer.Option("--format", help="The form of the result.")
    ] = "table",
    output: Annotated[Path | None, typer.Option(help="Save the result to this file.")] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Only this number of users, most words first. Default: 10 in the table, else all.")
    ] = None,
    plot: Annotated[bool, typer.Option(help="Also draw bars: of the top users, and of the histogram.")] = False,
    timeout: Deadline = 3600.0,
    url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Submit a report of words per user, show its progress, print its result. Exit 0: completed, 1: failure, 3: timeout.

    With --output, the result is saved after its SHA-256 is verified. Parquet and Arrow need --output or a pipe.
    """
    wanted = Output("json" if as_json else form, output, top, plot)
    wanted.check()
    fields = _fields(start, end, user_id, order, limit, histogram)
    client = configured_client(url)
    with exit_on(ApiError), exit_on(TimeIsUp, code=3, hint="; `posthaste wait ID` waits longer"):
        state = _run(client, fields, timeout)
    if state["status"] != "completed":
        last = f"; the last attempt: {state['last_reason']}" if state["last_reason"] else ""
        fail(f"report {state['id']} ended as {state['status']} ({state['reason']}{last})")
    with exit_on(ApiError, hint=f"; the result stays at {REPORTS}/{state['id']}/result"), exit_on(OSError):
        if wanted.form != "table":
            wanted.write(client, state["id"])
        if wanted.form == "table" or plot:
            print_top(client, state, wanted, is_ordered=order == "words", histogram=histogram)


def _fields(
    start: datetime | None, end: datetime | None, user_ids: list[int] | None, order: str, limit: int | None, histogram: bool
) -> dict[str, Any]:
    """The body of the request. It leaves out what the API has as its default."""
    fields = {
        "from": None if start is None else start.replace(tzinfo=UTC).isoformat(),
        "to": None if end is None else end.replace(tzinfo=UTC).isoformat(),
        "user_ids": user_ids or None,
        "order": None if order == "user_id" else order,
        "limit": limit,
        "histogram": "words" if histogram else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _run(client: Client, fields: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Submit a report and show its progress until it ends. Returns its last state."""
    submitted = client.call("/api/2.0/report/posts", fields)
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
