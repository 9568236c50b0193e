"""`posthaste dead-letters`, also installed as `posthaste-requeue`: list, show, requeue, discard and export dead letters."""

import asyncio
import base64
import inspect
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.terminal import console, fail, problems
from infra import logs
from infra.errors import Transient
from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter, Group
from infra.postgres.leadership import Leadership
from infra.postgres.pool import DatabasePool
from infra.postgres.queries import Queries
from infra.rabbitmq.dead_queue import DeadQueues, TidyResult
from infra.rabbitmq.topology import describe
from jobs.lifecycle import ENDS, Status
from jobs.model import Kind
from service.dead_letters import BatchResult, DeadLetters, Tidier
from service.settings import Settings, SettingsError, load

PAGE = 500
CALL_SECONDS = 30.0
SHOWN = 20  # letters that a dry run prints for people; --json has all
GOOD_ENDS = {Status.SENT, Status.DELIVERED, Status.COMPLETED}
CANARY_FAILED = 4
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Failed and unknown jobs: look at them, bring them back.")


class CanaryFailed(Exception):
    """Too few of the first ones went well; the rest was left alone."""


@dataclass(frozen=True)
class Desk:
    """What the commands work with."""

    store: DeadLetterStore
    letters: DeadLetters
    tidier: Tidier
    queries: Queries


# ── the filter, as options of every command ──────────────────────────────────────────────────────────────────────────────


class DeadStatus(StrEnum):
    """Failed for sure, or perhaps sent."""

    FAILED = "failed"
    UNKNOWN = "unknown"


def _age(text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise typer.BadParameter(f"{text!r} is not an age like 90s, 15m, 6h or 2d")
    return timedelta(seconds=int(number) * _UNITS[unit])


_OPTIONS: dict[str, Any] = {
    "kind": Annotated[Kind | None, typer.Option(help="Only of this kind.")],
    "status": Annotated[DeadStatus | None, typer.Option(help="Only failed, or only unknown.")],
    "provider": Annotated[str | None, typer.Option("--of-provider", help="Only of this provider.")],
    "reason": Annotated[str | None, typer.Option(help="Only with this reason, e.g. http_400 or attempts_exhausted.")],
    "destination": Annotated[str | None, typer.Option(help="Only to this destination.")],
    "tag": Annotated[str | None, typer.Option(help="Only with this tag.")],
    "reference": Annotated[str | None, typer.Option(help="Only with this reference.")],
    "older_than": Annotated[str | None, typer.Option(help="Only what failed longer ago, e.g. 15m, 6h, 2d.")],
    "newer_than": Annotated[str | None, typer.Option(help="Only what failed since, e.g. 15m, 6h, 2d.")],
    "before": Annotated[datetime | None, typer.Option(help="Only what failed before this instant (UTC).")],
    "id": Annotated[list[UUID] | None, typer.Option(help="Only these; may be repeated.")],
}


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the filter's options; it gets them as one `filter_`."""

    def run(**given: Any) -> None:
        options = {name: given.pop(name) for name in _OPTIONS}
        now, older, newer = datetime.now(UTC), options.pop("older_than"), options.pop("newer_than")
        before = options.pop("before")
        bounds = [before.replace(tzinfo=UTC)] if before else []
        bounds += [now - _age(older)] if older else []
        filter_ = Filter(
            ids=tuple(options.pop("id") or ()),
            failed_before=min(bounds, default=None),
            failed_after=now - _age(newer) if newer else None,
            **options,
        )
        command(filter_=filter_, **given)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "filter_"]
    of_filter = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    all_ = [*of_filter, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
    run.__signature__ = inspect.Signature(all_)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in all_}
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    return run


AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would go, change nothing.")]


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command("list")
@filtered
def list_(filter_: Filter, as_json: AsJson = False) -> None:
    """How many there are of each sort, and what lies in the dead queues and cannot be decoded."""

    async def look(desk: Desk) -> tuple[list[Group], dict[str, TidyResult]]:
        return await desk.store.groups(filter_, CALL_SECONDS), await _tidy(desk)

    groups, queues = _run(look)
    foreign = {name: len(found.undecodable) for name, found in queues.items() if found.undecodable}
    if as_json:
        print(json.dumps({"groups": [asdict(group) for group in groups], "undecodable": foreign}, default=str, indent=2))
        return
    console.print(_groups(groups))
    for name, count in foreign.items():
        console.print(
            f"{name}: {count} messages that cannot be decoded; `export` shows them, `discard --undecodable` deletes them"
        )


@app.command()
def show(id: UUID) -> None:
    """One dead letter with every attempt at it, over all revisions."""

    async def look(desk: Desk) -> tuple[list[DeadLetter], Any]:
        found = await desk.store.page(Filter(ids=(id,)), BEFORE_ALL, 1, CALL_SECONDS)
        return found, await desk.queries.attempts(id, None, None, CALL_SECONDS)

    found, attempts = _run(look)
    if not found:
        fail(f"there is no dead letter {id}; `posthaste wait {id}` says what became of a job")
    for name, value in asdict(found[0]).items():
        console.print(f"{name:>14}  {value}", highlight=False, markup=False)
    table = Table("revision", "attempt", "outcome", "reason", "code", "charged", "took", "at")
    for each in attempts or []:
        took = "" if each.ran_seconds is None else f"{each.ran_seconds:.2f} s"
        cells = (each.revision, each.n, each.outcome, each.reason or "", each.provider_code or "", each.charged, took)
        table.add_row(*map(str, cells), f"{each.ended_at:%Y-%m-%d %H:%M:%S}")
    console.print(table)


@app.command()
@filtered
def requeue(
    filter_: Filter,
    to_provider: Annotated[str | None, typer.Option("--provider", help="Send messages through this one from now on.")] = None,
    extend: Annotated[bool, typer.Option(help="Also those past their deadline, which begins anew.")] = False,
    dry_run: DryRun = False,
    canary: Annotated[int, typer.Option(min=0, help="Send so many first; go on only if enough of them go well.")] = 0,
    canary_success: Annotated[float, typer.Option(min=0, max=1, help="The share of the canaries that is enough.")] = 0.9,
    canary_seconds: Annotated[float, typer.Option(min=1, help="How long the canaries may take.")] = 60.0,
    rate: Annotated[float, typer.Option(min=0.1, help="So many a second at most.")] = 500.0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Queue them anew. Exit 0: done, 1: something is wrong, 4: the canaries did not go well, the rest was left."""

    async def work(desk: Desk) -> dict[str, Any]:
        # What fails again while this runs is not taken twice.
        bound = replace(filter_, failed_before=min(filter(None, [filter_.failed_before, await desk.store.now(CALL_SECONDS)])))
        count = _preview(await desk.store.groups(bound, CALL_SECONDS), quiet=as_json)
        if dry_run:
            letters = [each async for each in _all(desk.store, bound)]
            _show_letters(letters, as_json=as_json)
            return {"would_requeue": [str(each.id) for each in letters]}
        if not count or not (yes or _confirmed(f"Queue {count} anew?")):
            return {"requeued": 0, "left": [], "expired": []}
        moving = _Moving(desk, bound, to_provider, rate, extend=extend, quiet=as_json)
        try:
            if canary:
                await moving.canary(canary, canary_success, canary_seconds)
            await moving.rest(count)
        finally:
            await _tidy(desk)
        return {"requeued": moving.moved, "left": list(map(str, moving.left)), "expired": list(map(str, moving.expired))}

    try:
        result = _run(work)
    except CanaryFailed as error:
        fail(str(error), CANARY_FAILED)
    if as_json:
        print(json.dumps(result, indent=2))
    elif not dry_run:
        console.print(f"{result['requeued']} queued anew", highlight=False)
        if result["expired"]:
            problems.print(f"{len(result['expired'])} left, as they are past their deadline; --extend gives them a new one")
        if result["left"]:
            fail(f"{len(result['left'])} left, as their provider is not configured; name another with --provider NEW")


@app.command()
@filtered
def discard(
    filter_: Filter,
    undecodable: Annotated[bool, typer.Option(help="Delete what cannot be decoded from the dead queues, instead.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """End them for good: they are not listed any more, and cannot come back."""

    async def work(desk: Desk) -> str:
        if undecodable:
            found = await _tidy(desk, drop_undecodable=not dry_run) if yes or dry_run or _confirmed("Delete them?") else {}
            return f"{sum(len(each.undecodable) for each in found.values())} that cannot be decoded"
        bound = replace(filter_, failed_before=filter_.failed_before or await desk.store.now(CALL_SECONDS))
        count = _preview(await desk.store.groups(bound, CALL_SECONDS), quiet=False)
        if dry_run:
            _show_letters([each async for each in _all(desk.store, bound)], as_json=False)
        if dry_run or not count or not (yes or _confirmed(f"Discard {count} for good?")):
            return "0"
        moved, after = 0, BEFORE_ALL
        while (done := await desk.letters.discard(bound, after, PAGE)).last is not None:
            moved, after = moved + len(done.moved), done.last
        await _tidy(desk)
        return str(moved)

    console.print(f"{_run(work)} discarded" if not dry_run else f"{_run(work)}: nothing was changed", highlight=False)


@app.command()
@filtered
def export(filter_: Filter) -> None:
    """Print them as JSON lines, without their bodies; what cannot be decoded as base64, with its queue."""

    async def work(desk: Desk) -> None:
        async for each in _all(desk.store, filter_):
            print(json.dumps(asdict(each), default=str))
        for queue, found in (await _tidy(desk)).items():
            for foreign in found.undecodable:
                print(json.dumps({"queue": queue, "why": foreign.reason, "base64": base64.b64encode(foreign.body).decode()}))

    _run(work)


# ── how they do it ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Moving:
    """One run of `requeue`: counts, keeps to the rate, and remembers where it is."""

    def __init__(self, desk: Desk, filter_: Filter, provider: str | None, rate: float, *, extend: bool, quiet: bool):
        self._desk = desk
        self._wanted = filter_
        self._provider = provider
        self._rate = rate
        self._extend = extend
        self._quiet = quiet
        self._after = BEFORE_ALL
        self.moved = 0
        self.left: list[UUID] = []
        self.expired: list[UUID] = []

    async def canary(self, count: int, success: float, seconds: float) -> None:
        """Queue the first `count` and wait for them. A canary whose first new attempt fails counts as failed.

        Raises:
            CanaryFailed: fewer than that share went well in time.
        """
        done = await self._step(count)
        deadline, statuses = time.monotonic() + seconds, {}
        while done.moved and time.monotonic() < deadline:
            known = await self._desk.queries.statuses(done.moved, CALL_SECONDS)
            statuses = {each.id: each.status for each in known if each is not None}
            if all(status in ENDS or status is Status.RETRYING for status in statuses.values()):
                break
            await asyncio.sleep(0.1)
        good = sum(status in GOOD_ENDS for status in statuses.values())
        if good < success * len(done.moved):
            raise CanaryFailed(f"{good} of {len(done.moved)} canaries went well: stopped, the rest was left alone")
        if not self._quiet:
            console.print(f"{good} of {len(done.moved)} canaries went well; going on", highlight=False)

    async def rest(self, count: int) -> None:
        """Queue all that are left, at the rate."""
        columns = (TextColumn("requeue"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=problems, disable=self._quiet) as bar:
            task = bar.add_task("requeue", total=count, completed=self.moved)
            size, started, before = max(1, min(PAGE, int(self._rate / 2))), time.monotonic(), self.moved
            while (await self._step(size)).last is not None:
                bar.update(task, completed=self.moved)
                await asyncio.sleep(max(0.0, started + (self.moved - before) / self._rate - time.monotonic()))

    async def _step(self, count: int) -> BatchResult:
        done = await self._desk.letters.requeue(self._wanted, self._after, count, self._provider, extend=self._extend)
        self._after = done.last or self._after
        self.moved += len(done.moved)
        self.left += done.unconfigured
        self.expired += done.expired
        return done


async def _tidy(desk: Desk, *, drop_undecodable: bool = False) -> dict[str, TidyResult]:
    """Tidy the dead queues, after whoever is at it now."""
    deadline = time.monotonic() + CALL_SECONDS
    while (found := await desk.tidier.tidy(drop_undecodable=drop_undecodable)) is None:
        if time.monotonic() > deadline:
            problems.print("somebody else is looking through the dead queues for long; what lies in them was left as it is")
            return {}
        await asyncio.sleep(0.2)
    return found


async def _all(store: DeadLetterStore, filter_: Filter) -> AsyncIterator[DeadLetter]:
    after = BEFORE_ALL
    while page := await store.page(filter_, after, PAGE, CALL_SECONDS):
        for each in page:
            yield each
        after = page[-1].id


def _preview(groups: list[Group], *, quiet: bool) -> int:
    """Say what the filter finds; how many that is."""
    if not quiet:
        console.print(_groups(groups))
        unknown = sum(group.count for group in groups if group.status is Status.UNKNOWN)
        if unknown:
            console.print(
                f"{unknown} of them are unknown: they may have been sent, and may be sent a second time", style="yellow"
            )
    return sum(group.count for group in groups)


def _show_letters(letters: list[DeadLetter], *, as_json: bool) -> None:
    if as_json:
        return
    for each in letters[:SHOWN]:
        console.print(f"{each.id}  {each.queue.name}  {each.reason}  {each.destination or ''}", highlight=False, markup=False)
    if len(letters) > SHOWN:
        console.print(f"… and {len(letters) - SHOWN} more; --json lists all")


def _groups(groups: Iterable[Group]) -> Table:
    table = Table("kind", "provider", "status", "reason", "count", "oldest", "newest")
    for group in groups:
        instants = (f"{group.oldest:%Y-%m-%d %H:%M:%S}", f"{group.newest:%Y-%m-%d %H:%M:%S}")
        table.add_row(group.kind, group.provider or "", group.status, group.reason or "", str(group.count), *instants)
    return table


def _confirmed(question: str) -> bool:
    return typer.confirm(question)


def _run(work: Callable[[Desk], Any]) -> Any:
    try:
        settings = load()
    except SettingsError as error:
        fail(str(error))
    logs.configure("error", json=False)

    async def run() -> Any:
        async with _desk(settings) as desk:
            return await work(desk)

    try:
        return asyncio.run(run())
    except Transient as error:
        fail(f"{error}; what was done is done once, so simply run it again")


@asynccontextmanager
async def _desk(settings: Settings) -> AsyncIterator[Desk]:
    pool = DatabasePool(settings.database_url, name="dead letters", threads=1)
    leadership = Leadership(settings.database_url, "dead letters")
    store = DeadLetterStore(pool)
    queues = DeadQueues(settings.amqp_url, describe(settings.namespace, settings.providers))
    try:
        yield Desk(store, DeadLetters(store, settings.deadlines()), Tidier(store, queues, leadership), Queries(pool))
    finally:
        leadership.close()
        pool.close()


def main() -> None:
    """Entry point of the script `posthaste-requeue`."""
    app()
