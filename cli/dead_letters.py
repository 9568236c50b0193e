"""`posthaste dead-letters`: count, show, requeue, discard and export failed and unknown jobs."""

import base64
import json
from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table

from cli.dead_letter_access import (
    Access,
    DryRun,
    filtered,
    format_age,
    format_value,
    print_groups,
    print_letters,
    print_newest,
    run,
)
from cli.requeue import requeue
from cli.session import CALL_SECONDS
from cli.terminal import AsJson, Yes, console, fail, print_json, say
from infra.postgres.dead_letters import BEFORE_ALL, Filter
from service.dead_letters import PAGE

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("list")
@filtered
async def list_(
    access: Access,
    filter_: Filter,
    counts: Annotated[bool, typer.Option("--counts", help="Print only the counts.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="Number of dead letters.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by kind, provider, status and reason, and list the newest. `export` prints all."""
    groups = await access.store.groups(filter_, CALL_SECONDS)
    letters = [] if counts else await access.store.newest(filter_, limit, CALL_SECONDS)
    queues = await access.tidy()
    undecodable = {name: len(queue.undecodable) for name, queue in queues.items() if queue.undecodable}
    if as_json:
        rows = {} if counts else {"letters": [asdict(letter) for letter in letters]}
        print_json({"groups": [asdict(group) for group in groups], **rows, "undecodable": undecodable})
        return
    print_groups(groups)
    if letters:
        say(f"the newest {len(letters)} of {sum(group.count for group in groups)}:")
        print_newest(letters)
    for name, count in undecodable.items():
        say(f"{name}: {count} undecodable messages; `export` prints them, `discard --undecodable` deletes them")


@app.command()
def show(id: UUID, as_json: AsJson = False) -> None:
    """Show one dead letter with its attempts in all revisions."""

    async def work(access: Access) -> None:
        letters = await access.store.page(Filter(ids=(id,)), BEFORE_ALL, 1, CALL_SECONDS)
        if not letters:
            fail(f"there is no dead letter {id}; GET /messages/{id}/attempts lists the attempts of any message")
        fields, attempts = asdict(letters[0]), await access.jobs.attempts(id, None, None, CALL_SECONDS) or []
        if as_json:
            print_json({**fields, "attempts": [dict(row) for row in attempts]})
            return
        fields["age"] = format_age(fields.pop("age_seconds"))
        for name, value in fields.items():
            say(f"{name:>14}  {format_value(value)}")
        table = Table("revision", "attempt", "outcome", "reason", "code", "charged", "took", "at")
        for row in attempts:
            took = None if row["ran_seconds"] is None else f"{row['ran_seconds']:.2f} s"
            values = (*(row[name] for name in ("revision", "n", "outcome", "reason", "provider_code", "charged")), took)
            table.add_row(*map(format_value, (*values, row["ended_at"])))
        console.print(table)

    run(work)


app.command()(requeue)


@app.command()
@filtered
async def discard(
    access: Access,
    filter_: Filter,
    undecodable: Annotated[bool, typer.Option(help="Delete the undecodable messages in the dead queues instead.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Discard dead letters permanently."""
    if undecodable:
        discarded = await _discard_undecodable(access, dry_run, yes)
    else:
        discarded = await _discard(access, filter_, dry_run, yes)
    say(f"{discarded}: nothing was changed" if dry_run else f"{discarded} discarded")


async def _discard_undecodable(access: Access, dry_run: bool, yes: bool) -> str:
    confirmed = yes or dry_run or typer.confirm("Delete the undecodable messages?")
    queues = await access.tidy(drop_undecodable=not dry_run) if confirmed else {}
    return f"{sum(len(queue.undecodable) for queue in queues.values())} undecodable messages"


async def _discard(access: Access, filter_: Filter, dry_run: bool, yes: bool) -> str:
    found = await access.preview(filter_)
    if dry_run:
        print_letters([letter async for letter in access.letters.each(found.filter)])
    if dry_run or not found.count or not (yes or typer.confirm(f"Discard {found.count} permanently?")):
        return "0"
    discarded, after = 0, BEFORE_ALL
    while (done := await access.letters.discard(found.filter, after, PAGE)).last is not None:
        discarded, after = discarded + len(done.moved), done.last
    await access.tidy()
    return str(discarded)


@app.command()
@filtered
async def export(access: Access, filter_: Filter) -> None:
    """Print dead letters as JSON lines without bodies, and undecodable messages as base64 with their queue."""
    async for letter in access.letters.each(filter_):
        print(json.dumps(asdict(letter), default=str))
    for name, queue in (await access.tidy()).items():
        for message in queue.undecodable:
            body = base64.b64encode(message.body).decode()
            print(json.dumps({"queue": name, "reason": message.reason, "base64": body}))
