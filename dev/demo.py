"""`make demo`: messages through a provider that fails and hangs, and an account of each one."""

import asyncio
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import aiohttp
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.processes import CannotStart
from cli.sandbox import Faults
from cli.session import open_session
from cli.terminal import console
from dev.stack import local_sandbox, service
from infra.postgres.migration import MigrationBlocked
from service.settings import Settings

FAULTS = Faults(fail=0.10, hang=0.02)
PROVIDER = {"timeout_seconds": 1.0, "concurrency": 32, "retry": {"attempts": 8, "base_seconds": 0.2, "cap_seconds": 2}}
ENDS = {"sent", "failed"}
DRAIN_SECONDS = 120.0
CONCURRENCY = 20  # requests
POLL_SECONDS = 0.1
_COLUMNS = (TextColumn("{task.description:>9}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())


def demo(
    count: Annotated[int, typer.Option(min=2, max=100_000, help="Number of messages.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the provider's faults.")] = 1,
) -> None:
    """Send messages through a failing sandbox, with temporary processes and a temporary database. Account for each message."""
    with open_session(CannotStart, MigrationBlocked) as (settings, _):
        account = asyncio.run(_demo(settings, count, seed))
    console.print(_table(account))
    console.print("Every message is accounted for." if account.consistent else "[bold red]NOT every message is accounted for.")
    raise typer.Exit(0 if account.consistent else 1)


@dataclass
class Account:
    """Accepted messages, their records, and the requests at the provider."""

    accepted: list[str] = field(default_factory=list)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    unique_at_provider: int = 0
    raw_at_provider: int = 0

    @property
    def statuses(self) -> Counter[str]:
        return Counter(record["status"] for record in self.records.values())

    @property
    def lost(self) -> int:
        """Accepted messages that are neither sent nor failed at the deadline."""
        return len(self.accepted) - self.statuses["sent"] - self.statuses["failed"]

    @property
    def consistent(self) -> bool:
        """No message is lost, and the provider accepted exactly as many as are sent."""
        return self.lost == 0 and self.unique_at_provider == self.statuses["sent"]

    def seconds_to_sent(self) -> list[float]:
        """Seconds from acceptance to `sent`, by Postgres' clock."""
        sent = [record for record in self.records.values() if record["status"] == "sent"]
        return sorted(
            (datetime.fromisoformat(r["finished_at"]) - datetime.fromisoformat(r["created_at"])).total_seconds() for r in sent
        )


async def _demo(settings: Settings, count: int, seed: int) -> Account:
    sandbox = local_sandbox(FAULTS, seed)
    account = Account()
    async with service(settings, "demo", sandbox, PROVIDER) as (http, _):
        with Progress(*_COLUMNS, console=console) as progress:
            await _submit(http, account, count, progress)
            await _watch(http, account, progress)
    account.raw_at_provider, account.unique_at_provider = sandbox.raw, len(sandbox.ids)
    return account


async def _submit(http: aiohttp.ClientSession, account: Account, count: int, progress: Progress) -> None:
    task = progress.add_task("accepted", total=count)
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(n: int) -> None:
        async with slots, http.post("/messages", json={"destination": f"+1555{n:07}", "body": f"Hello {n}"}) as response:
            if response.status == 202:
                account.accepted.append((await response.json())["id"])
                progress.advance(task)

    await asyncio.gather(*map(one, range(count)))


async def _watch(http: aiohttp.ClientSession, account: Account, progress: Progress) -> None:
    """Read each message's record until it has ended, or until the deadline."""
    tasks = {status: progress.add_task(status, total=len(account.accepted)) for status in ("sent", "failed")}
    deadline = time.monotonic() + DRAIN_SECONDS
    unfinished = set(account.accepted)
    while unfinished and time.monotonic() < deadline:
        for id_ in list(unfinished):
            async with http.get(f"/messages/{id_}") as response:
                account.records[id_] = await response.json()
            if account.records[id_]["status"] in ENDS:
                unfinished.discard(id_)
                progress.advance(tasks[account.records[id_]["status"]])
        await asyncio.sleep(POLL_SECONDS)


def _table(account: Account) -> Table:
    times = account.seconds_to_sent()
    retried = sum(record["attempts"] > 1 for record in account.records.values())
    table = Table("", "messages", title=f"A provider that fails {FAULTS.fail:.0%} of requests and hangs on {FAULTS.hang:.0%}")
    table.columns[1].justify = "right"
    for name, value in (
        ("accepted", len(account.accepted)),
        ("sent", account.statuses["sent"]),
        ("retried", retried),
        ("failed", account.statuses["failed"]),
        ("lost", account.lost),
        ("requests at the provider", account.raw_at_provider),
    ):
        table.add_row(name, str(value))
    if len(times) > 1:
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        table.add_row("p50 to sent", f"{1000 * cuts[49]:.0f} ms")
        table.add_row("p99 to sent", f"{1000 * cuts[98]:.0f} ms")
    return table


if __name__ == "__main__":
    typer.run(demo)
