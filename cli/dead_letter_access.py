"""Access of the commands to dead letters: the options that filter them, the ledger, the dead queues, and a preview."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Annotated, Any, Literal
from uuid import UUID

import typer
from rich.table import Table

from cli.session import CALL_SECONDS, open_session
from cli.terminal import console, format_instant, problems, say
from infra.postgres.dead_letters import DeadLetter, DeadLetterStore, Filter, Group
from infra.postgres.job_reads import JobReads
from infra.postgres.leadership import Leadership
from infra.postgres.pool import DatabasePool
from infra.rabbitmq.dead_queue import DeadQueues, TidyResult
from infra.rabbitmq.topology import describe
from jobs.lifecycle import Status
from jobs.model import Kind
from service.dead_letters import DeadLetters, Preview, Tidier
from service.settings import Settings

PRINTED = 20  # letters that a dry run prints; --json prints all
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the matching dead letters. Change nothing.")]


def _age(text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise typer.BadParameter(f"{text!r} is not an age like 90s, 15m, 6h or 2d")
    return timedelta(seconds=int(number) * _UNITS[unit])


def _filter(
    *,
    kind: Annotated[Kind | None, typer.Option(help="Only this kind.")] = None,
    status: Annotated[Literal["failed", "unknown"] | None, typer.Option(help="Only failed, or only unknown.")] = None,
    of_provider: Annotated[str | None, typer.Option(help="Only this provider.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only this reason, e.g. http_400 or attempts_exhausted.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only this tag.")] = None,
    reference: Annotated[str | None, typer.Option(help="Only this reference.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Only failures before this age, e.g. 15m, 6h, 2d.")] = None,
    newer_than: Annotated[str | None, typer.Option(help="Only failures since this age, e.g. 15m, 6h, 2d.")] = None,
    before: Annotated[datetime | None, typer.Option(help="Only failures before this instant (UTC).")] = None,
    id: Annotated[list[UUID] | None, typer.Option(help="Only this id. Repeatable.")] = None,
) -> Filter:
    """A dead letter matches if it matches every option that is set."""
    now = datetime.now(UTC)
    bounds = [before.replace(tzinfo=UTC)] if before else []
    bounds += [now - _age(older_than)] if older_than else []
    return Filter(
        kind=kind,
        status=Status(status) if status else None,
        provider=of_provider,
        reason=reason,
        destination=destination,
        tag=tag,
        reference=reference,
        failed_after=now - _age(newer_than) if newer_than else None,
        failed_before=min(bounds, default=None),
        ids=tuple(id or ()),
    )


def filtered(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The command that runs `work`. Its first parameters, an `Access` and a `Filter`, become the options of the filter."""
    options = inspect.signature(_filter).parameters
    _, _, *others = inspect.signature(work).parameters.values()

    @wraps(work)
    def command(**arguments: Any) -> None:
        filter_ = _filter(**{name: arguments.pop(name) for name in options})
        run(lambda access: work(access, filter_, **arguments))

    parameters = [*options.values(), *(other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


class Access:
    """Stores and use cases of one command. `lock`: one process tidies the dead queues at a time."""

    def __init__(self, settings: Settings, pool: DatabasePool, lock: Leadership):
        self.store, self.jobs = DeadLetterStore(pool), JobReads(pool)
        self.letters = DeadLetters(self.store, settings.deadlines())
        queues = DeadQueues(settings.amqp_url, describe(settings.namespace, settings.providers))
        self._tidier = Tidier(self.store, queues, lock)

    async def tidy(self, *, drop_undecodable: bool = False) -> dict[str, TidyResult]:
        """Remove stale copies from the dead queues. Waits while another process does so."""
        deadline = time.monotonic() + CALL_SECONDS
        while (queues := await self._tidier.tidy(drop_undecodable=drop_undecodable)) is None:
            if time.monotonic() > deadline:
                say("another process is still tidying the dead queues; they were left unchanged", problems)
                return {}
            await asyncio.sleep(0.2)
        return queues

    async def preview(self, filter_: Filter, *, quiet: bool = False) -> Preview:
        """Print the groups that match the filter."""
        found = await self.letters.preview(filter_)
        if not quiet:
            print_groups(found.groups)
        if found.unknown and not quiet:
            text = f"{found.unknown} of them are unknown: the provider may have accepted them, and may get them a second time"
            console.print(text, style="yellow")
        return found


def run(work: Callable[[Access], Coroutine[Any, Any, None]]) -> None:
    """Run one command's work. An interrupted command can be repeated, as every change is fenced by the job's version."""
    with (
        open_session(hint="; the command can be repeated safely") as (settings, pool),
        closing(Leadership(settings.database_url, "dead letters")) as lock,
    ):
        asyncio.run(work(Access(settings, pool, lock)))


def print_groups(groups: Sequence[Group]) -> None:
    if not groups:
        say("no dead letter matches")
        return
    groups_table = Table("kind", "provider", "status", "reason", "count", "oldest", "newest")
    for group in groups:
        values = (group.kind, group.provider, group.status, group.reason, group.count, group.oldest, group.newest)
        groups_table.add_row(*map(format_value, values))
    console.print(groups_table)


def print_newest(letters: Sequence[DeadLetter]) -> None:
    """Print one line a letter. A narrow terminal wraps it and cuts nothing."""
    now, rows = datetime.now(UTC), [["id", "kind", "provider", "status", "reason", "age", "destination"]]
    for letter in letters:
        age = format_age((now - letter.failed_at).total_seconds())
        values = (letter.id, letter.kind, letter.provider, letter.status, letter.reason, age, letter.destination)
        rows.append(list(map(format_value, values)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def format_value(value: object) -> str:
    """The text of a value for a reader: instants in UTC, lists with commas, `-` without a value."""
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)


def format_age(seconds: float) -> str:
    """Whole units, as the options take them: 90 s are 1m."""
    unit = next((unit for unit, length in reversed(_UNITS.items()) if seconds >= length), "s")
    return f"{max(0, int(seconds)) // _UNITS[unit]}{unit}"


def print_letters(letters: list[DeadLetter]) -> None:
    for letter in letters[:PRINTED]:
        say(f"{letter.id}  {letter.queue.name}  {letter.reason}  {letter.destination or ''}")
    if len(letters) > PRINTED:
        say(f"… and {len(letters) - PRINTED} more; --json prints all")
