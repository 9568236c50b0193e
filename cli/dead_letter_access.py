"""Access of the commands to dead letters: the ledger, the dead queues, and a preview of a filter."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from cli.session import CALL_SECONDS, open_session
from cli.terminal import console, problems, say
from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter, Group
from infra.postgres.job_reads import JobReads
from infra.postgres.leadership import Leadership
from infra.rabbitmq.dead_queue import DeadQueues, TidyResult
from infra.rabbitmq.topology import describe
from jobs.lifecycle import Status
from service.dead_letters import DeadLetters, Tidier

PAGE = 500
PRINTED = 20  # letters that a dry run prints; --json prints all

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the matching dead letters. Change nothing.")]

T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """Stores and use cases of one command."""

    store: DeadLetterStore
    letters: DeadLetters
    tidier: Tidier
    jobs: JobReads

    async def all(self, filter_: Filter) -> AsyncIterator[DeadLetter]:
        after = BEFORE_ALL
        while page := await self.store.page(filter_, after, PAGE, CALL_SECONDS):
            for letter in page:
                yield letter
            after = page[-1].id

    async def tidy(self, *, drop_undecodable: bool = False) -> dict[str, TidyResult]:
        """Remove stale copies from the dead queues. Waits while another process does so."""
        deadline = time.monotonic() + CALL_SECONDS
        while (queues := await self.tidier.tidy(drop_undecodable=drop_undecodable)) is None:
            if time.monotonic() > deadline:
                say("another process is still tidying the dead queues; they were left unchanged", problems)
                return {}
            await asyncio.sleep(0.2)
        return queues

    async def preview(self, filter_: Filter, *, quiet: bool = False) -> int:
        """Print the groups that match the filter. Returns the number of matching dead letters."""
        groups = await self.store.groups(filter_, CALL_SECONDS)
        unknown = sum(group.count for group in groups if group.status is Status.UNKNOWN)
        if not quiet:
            print_groups(groups)
            if unknown:
                text = f"{unknown} of them are unknown: the provider may have accepted them, and may get them a second time"
                console.print(text, style="yellow")
        return sum(group.count for group in groups)


def run(work: Callable[[Access], Awaitable[T]]) -> T:
    """Run one command's work. An interrupted command can be repeated, as every change is fenced by the job's version."""
    with open_session(hint="; the command can be repeated safely") as session:
        settings, store = session.settings, DeadLetterStore(session.pool)

        async def call() -> T:
            leadership = Leadership(settings.database_url, "dead letters")
            tidier = Tidier(store, DeadQueues(settings.amqp_url, describe(settings.namespace, settings.providers)), leadership)
            try:
                return await work(Access(store, DeadLetters(store, settings.deadlines()), tidier, JobReads(session.pool)))
            finally:
                leadership.close()

        return session.run(call())


def print_groups(groups: Sequence[Group]) -> None:
    if not groups:
        say("no dead letter matches")
        return
    groups_table = Table("kind", "provider", "status", "reason", "count", "oldest", "newest")
    for group in groups:
        instants = (f"{group.oldest:%Y-%m-%d %H:%M:%S}", f"{group.newest:%Y-%m-%d %H:%M:%S}")
        groups_table.add_row(group.kind, group.provider or "", group.status, group.reason or "", str(group.count), *instants)
    console.print(groups_table)


def print_letters(letters: list[DeadLetter]) -> None:
    for letter in letters[:PRINTED]:
        say(f"{letter.id}  {letter.queue.name}  {letter.reason}  {letter.destination or ''}")
    if len(letters) > PRINTED:
        say(f"… and {len(letters) - PRINTED} more; --json prints all")
