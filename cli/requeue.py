"""`posthaste-requeue`, also `posthaste dead-letters requeue`: preview, confirm, requeue."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated
from uuid import UUID

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli import end_quickly
from cli.dead_letter_access import Access, DryRun, filtered, print_letters
from cli.session import CALL_SECONDS
from cli.terminal import AsJson, Yes, console, fail, print_json, problems, say
from infra.postgres.dead_letters import BEFORE_ALL, Filter
from service.dead_letters import PAGE, BatchResult, Canaries

CANARY_FAILED = 4


@filtered
async def requeue(
    access: Access,
    filter_: Filter,
    to_provider: Annotated[str | None, typer.Option("--provider", help="Requeue messages for this provider.")] = None,
    extend: Annotated[bool, typer.Option(help="Requeue expired jobs, too, with a new deadline.")] = False,
    dry_run: DryRun = False,
    canary: Annotated[int, typer.Option(min=0, help="Requeue this number first. Continue only if they succeed.")] = 0,
    canary_success: Annotated[float, typer.Option(min=0, max=1, help="Share of canaries that must succeed.")] = 0.9,
    canary_seconds: Annotated[float, typer.Option(min=1, help="Seconds to wait for the canaries.")] = 60.0,
    rate: Annotated[float, typer.Option(min=0.1, help="Jobs a second at most.")] = 500.0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Requeue failed and unknown jobs: preview, confirm, requeue.

    Exit 0: done or declined, 1: error or jobs of unconfigured providers left, 2: wrong options, 4: too few canaries succeeded.
    """
    found = await access.preview(filter_, quiet=as_json)
    if dry_run:
        letters = [letter async for letter in access.letters.each(found.filter)]
        if as_json:
            print_json({"would_requeue": [letter.id for letter in letters]})
        else:
            print_letters(letters)
        return
    job = _Requeue(access, found.filter, to_provider, rate, extend=extend, as_json=as_json)
    if found.count and (yes or typer.confirm(f"Requeue {found.count}?")):
        try:
            if canary:
                await job.canary(canary, canary_success, canary_seconds)
            await job.rest(found.count)
        finally:
            await access.tidy()
    job.print()


@dataclass
class _Requeue:
    """One run: requeues page by page, keeps to the rate, and counts."""

    access: Access
    filter: Filter
    provider: str | None
    rate: float
    extend: bool
    as_json: bool
    after: UUID = BEFORE_ALL
    requeued: int = 0
    unconfigured: list[UUID] = field(default_factory=list)
    expired: list[UUID] = field(default_factory=list)

    async def canary(self, count: int, success: float, seconds: float) -> None:
        """Requeue the first `count` and wait for them. Exit 4: a smaller share than `success` succeeded in time."""
        done = await self._step(count)
        deadline, canaries = time.monotonic() + seconds, Canaries(len(done.moved))
        while canaries.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            canaries = Canaries.of(await self.access.jobs.statuses(done.moved, CALL_SECONDS))
        result = f"{canaries.succeeded} of {canaries.total} canaries succeeded"
        if not canaries.passed(success):
            fail(f"{result}: stopped, the others are unchanged", CANARY_FAILED)
        if not self.as_json:
            say(f"{result}; continuing")

    async def rest(self, count: int) -> None:
        """Requeue the others at the rate."""
        columns = (TextColumn("requeue"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=problems, disable=self.as_json) as bar:
            task = bar.add_task("requeue", total=count, completed=self.requeued)
            size, started, before = max(1, min(PAGE, int(self.rate / 2))), time.monotonic(), self.requeued
            while (await self._step(size)).last is not None:
                bar.update(task, completed=self.requeued)
                await asyncio.sleep(max(0.0, started + (self.requeued - before) / self.rate - time.monotonic()))

    async def _step(self, count: int) -> BatchResult:
        done = await self.access.letters.requeue(self.filter, self.after, count, self.provider, extend=self.extend)
        self.after = done.last or self.after
        self.requeued += len(done.moved)
        self.unconfigured += done.unconfigured
        self.expired += done.expired
        return done

    def print(self) -> None:
        """Print the counts. Without --json, exit 1 if providers are not configured."""
        if self.as_json:
            print_json({"requeued": self.requeued, "left": self.unconfigured, "expired": self.expired})
            return
        console.print(f"{self.requeued} requeued", highlight=False)
        if self.expired:
            say(f"{len(self.expired)} left, their deadline has passed; --extend sets a new deadline", problems)
        if self.unconfigured:
            fail(f"{len(self.unconfigured)} left, their provider is not configured; --provider NEW chooses another")


def main() -> None:
    """Entry point of the script `posthaste-requeue`."""
    end_quickly()
    typer.run(requeue)
