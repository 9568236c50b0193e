"""`posthaste reports`: schedules of recurring reports."""

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

import typer
from rich.table import Table

from cli.client import ApiError, BaseUrl, configured_client
from cli.terminal import AsJson, console, exit_on, format_instant, print_json, say

SCHEDULES = "/api/2.0/report/schedules"

app = typer.Typer(no_args_is_help=True, add_completion=False)

Owner = Annotated[str | None, typer.Option("--client", help="The client of the schedule. Default: the key's own.")]


@app.command()
def schedule(
    cron: Annotated[str, typer.Argument(help="Minute, hour, day of month, month, day of week, for example '0 6 * * *'.")],
    timezone: Annotated[str, typer.Option(help="The IANA time zone, for example Europe/Berlin.")] = "UTC",
    name: Annotated[str | None, typer.Option(help="The schedule's name. Default: made from the other options.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Count posts from this instant on (RFC 3339).")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Count posts before this instant (RFC 3339).")] = None,
    user: Annotated[list[int] | None, typer.Option(help="Count the posts of this user only. Repeatable.")] = None,
    order: Annotated[Literal["user_id", "words"] | None, typer.Option(help="The order of the result.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only this number of users, those with the most words.")] = None,
    histogram: Annotated[bool, typer.Option("--histogram", help="Also count the posts by their number of words.")] = False,
    callback_url: Annotated[
        str | None, typer.Option("--callback-url", help="The URL of the callbacks. Empty: none, not even the default one.")
    ] = None,
    url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Start a report at each instant that CRON matches. An equal schedule is not created twice."""
    report: dict[str, Any] = {"from": start, "to": end, "user_ids": user, "order": order, "limit": limit}
    report = {field: value for field, value in report.items() if value is not None}
    report |= {"histogram": "words"} if histogram else {}
    report |= {} if callback_url is None else {"callback_url": callback_url or None}
    fields: dict[str, Any] = {"cron": cron, "timezone": timezone, "report": report}
    with exit_on(ApiError):
        made = configured_client(url).call(SCHEDULES, fields if name is None else {**fields, "name": name})
    if as_json:
        print_json(made)
    else:
        say(f"{made['name']}: the next report starts at {_instant(made['next_at'])}")


@app.command()
def schedules(client: Owner = None, url: BaseUrl = None, as_json: AsJson = False) -> None:
    """List the schedules with their next and last runs."""
    with exit_on(ApiError):
        rows = configured_client(url).call(SCHEDULES + _query(client))["data"]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("There are no schedules; `posthaste reports schedule` creates one.")
        return
    table = Table("name", "schedule", "time zone", "report", "next run", "last run", "last report")
    for row in rows:
        next_run = _instant(row["next_at"]) if row["active"] else "rests: no usable key"
        last = f"{row['last_job']} {row['last_status']}" if row["last_job"] else ""
        last_run = _instant(row["last_at"]) if row["last_at"] else "never"
        table.add_row(row["name"], row["cron"], row["timezone"], _parameters(row["report"]), next_run, last_run, last)
    console.print(table)


@app.command()
def unschedule(name: str, client: Owner = None, url: BaseUrl = None) -> None:
    """Delete the schedule NAME. Its reports stay."""
    with exit_on(ApiError):
        configured_client(url).delete(f"{SCHEDULES}/{quote(name, safe='')}{_query(client)}")
    say(f"{name}: deleted")


def _query(client: str | None) -> str:
    return "" if client is None else f"?{urlencode({'client': client})}"


def _instant(text: str) -> str:
    return format_instant(datetime.fromisoformat(text))


def _parameters(report: dict[str, Any]) -> str:
    """The parameters that differ from their defaults."""
    chosen = {field: value for field, value in report.items() if value is not None and (field, value) != ("order", "user_id")}
    if "user_ids" in chosen:
        chosen["user_ids"] = f"{len(chosen['user_ids'])} users"
    return " ".join(f"{field}={value}" for field, value in chosen.items())
