"""`posthaste purge` and `erase`: delete finished jobs by age or by destination."""

from typing import Annotated

import typer

from cli.session import CALL_SECONDS, open_session
from cli.terminal import fail, problems, say
from infra.postgres.pool import DatabasePool
from infra.postgres.retention import Retention
from jobs.model import Kind

DAY = 86_400.0
REPEAT = "; run the command again"


def purge(
    older_than: Annotated[float, typer.Option(min=0, help="Age in days, counted from the job's end.")],
    kind: Annotated[list[Kind] | None, typer.Option(help="Kinds of jobs. Default: all.")] = None,
) -> None:
    """Delete finished jobs by age. Failed and unknown jobs are kept. The relay does the same periodically."""
    with open_session(hint=REPEAT) as session:
        total = session.run(_purge(session.pool, kind or list(Kind), older_than))
    say(f"purge: {total} jobs deleted")


def erase(
    destination: Annotated[str, typer.Option(help="The messages' destination.")],
    client: Annotated[str | None, typer.Option(help="Only this client's messages.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete all finished messages to one destination, dead letters included. Exit 3: unfinished messages are left."""
    if not yes:
        typer.confirm(f"Delete all finished messages to {destination!r} permanently?", abort=True)
    with open_session(hint=REPEAT) as session:
        total, left = session.run(_erase(session.pool, destination, client))
    say(f"erase: {total} jobs deleted")
    if left:
        fail(f"{left} messages to this destination are unfinished; run the command again when they have ended", 3)


async def _purge(pool: DatabasePool, kinds: list[Kind], days: float) -> int:
    """Delete jobs of these kinds that ended `days` ago or earlier. Returns their number."""
    retention, total = Retention(pool), 0
    for kind in kinds:
        async for count in retention.purge_all(kind, days * DAY):
            total += count
        say(f"purge: {kind}s: done", problems)
    return total


async def _erase(pool: DatabasePool, destination: str, client: str | None) -> tuple[int, int]:
    """Delete the finished messages with their attempts and callbacks: the number deleted, and the number unfinished."""
    retention, total = Retention(pool), 0
    while count := await retention.erase(destination, client, CALL_SECONDS):
        total += count
    return total, await retention.under_way(destination, client, CALL_SECONDS)
