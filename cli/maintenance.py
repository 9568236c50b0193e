"""`posthaste migrate`, `rabbitmq-user`, `rebuild`, `purge` and `erase`: database and broker are set up and maintained."""

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from cli.session import CALL_SECONDS, open_session, read_settings
from cli.terminal import Yes, confirm, exit_on, fail, problems, say
from infra.keys import OPEN_CLIENT, Scope
from infra.postgres import compatibility, migration
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.pool import DatabasePool
from infra.postgres.retention import Retention
from infra.postgres.sweep import BATCH, Sweep
from infra.rabbitmq.inspection import inspect
from infra.rabbitmq.topology import describe, permission
from infra.rabbitmq.user import UserNotCreated, create_user
from jobs.model import DEAD_QUEUES, Kind, WorkQueue, work_queues
from service.settings import PREFIX, Settings

REFUSALS = (migration.MigrationBlocked, compatibility.ForeignNamespace, migration.WrongEncoding, migration.RoleMissing)
DAY = 86_400.0
REPEAT = "; run the command again"


def migrate(
    first_key: Annotated[
        bool,
        typer.Option("--first-key", help="Reserve the first API key unless a key exists. `posthaste keys first` shows it."),
    ] = False,
) -> None:
    with open_session(*REFUSALS, log_level="warning") as (settings, pool):
        role = migration.role_of(settings.database_url)
        revision = migration.migrate(settings.owner_url, settings.namespace, runtime_role=role)
        keys = ApiKeyStore(pool)
        reserved = first_key and asyncio.run(keys.reserve_first(OPEN_CLIENT, [Scope.ADMIN], CALL_SECONDS))
    say(f"migrate: the schema is at revision {revision}")
    if reserved:
        say("migrate: every request needs an API key; `posthaste keys first` shows the first one")


def rabbitmq_user() -> None:
    """Create or update the RabbitMQ user of POSTHASTE_AMQP_URL, limited to the namespace."""
    settings = read_settings()
    if settings.management_url is None:
        fail(f"{PREFIX}MANAGEMENT_URL is not set: set it to an administrator's URL", 2)
    with exit_on(UserNotCreated):
        name = create_user(settings.management_url, settings.amqp_url, settings.namespace)
    say(f"rabbitmq: the user {name} may use {permission(settings.namespace)}")


def rebuild() -> None:
    """Publish every due job whose message is lost. Safe at any time."""
    with open_session(hint=f"{REPEAT}, or see `posthaste doctor`") as (settings, pool):
        total = asyncio.run(_rebuild(settings, Sweep(pool)))
    say(f"rebuild: {total} in total; a running relay publishes them")


async def _rebuild(settings: Settings, sweep: Sweep) -> int:
    """Add outbox rows for due jobs without one, and for the dead letters of each empty dead queue. Returns their number.

    Duplicates are harmless: a message whose version is stale matches nothing (rule 3).
    """
    total = sum([await _requeue(sweep, work) for work in work_queues(settings.providers)])
    states = {state.logical: state for state in await inspect(settings.amqp_url, describe(settings.namespace, []))}
    for kind, queue in DEAD_QUEUES.items():
        if states[queue].ready:
            say(f"rebuild: {queue}: skipped, it is not empty ({states[queue].ready} messages)")
        else:
            total += await _refill(sweep, kind)
    return total


async def _requeue(sweep: Sweep, queue: WorkQueue) -> int:
    before = (await sweep.observe(queue, behind_seconds=0, timeout=CALL_SECONDS)).now
    page = await sweep.requeue(queue, before=before, after=None, timeout=CALL_SECONDS)
    total, after = page.requeued, None
    while page.last is not None:
        after = page.last if page.last != after else page.last + timedelta(microseconds=1)
        page = await sweep.requeue(queue, before=before, after=after, timeout=CALL_SECONDS)
        total += page.requeued
    say(f"rebuild: {queue.name}: {total} jobs to publish")
    return total


async def _refill(sweep: Sweep, kind: Kind) -> int:
    total, count, after = 0, BATCH, "00000000-0000-0000-0000-000000000000"
    while count == BATCH:
        last, count = await sweep.refill_dead(kind, after, CALL_SECONDS)
        total, after = total + count, last or after
    say(f"rebuild: {DEAD_QUEUES[kind]}: {total} dead letters to publish")
    return total


def purge(
    older_than: Annotated[float, typer.Option(min=0, help="Age in days, counted from the job's end.")],
    kind: Annotated[list[Kind] | None, typer.Option(help="Kinds of jobs. Default: all.")] = None,
    yes: Yes = False,
) -> None:
    """Count finished jobs by age, ask, and delete them. Failed and unknown jobs are kept. The relay deletes periodically."""
    kinds, seconds = kind or list(Kind), older_than * DAY
    with open_session(hint=REPEAT) as (_, pool):
        retention = Retention(pool)
        if not yes and (count := asyncio.run(_count(retention, kinds, seconds))):
            confirm(f"Delete {count} finished jobs older than {older_than:g} days permanently?")
        total = asyncio.run(_purge(retention, kinds, seconds))
    say(f"purge: {total} jobs deleted")


async def _count(retention: Retention, kinds: list[Kind], seconds: float) -> int:
    return sum([await retention.count(kind, seconds, CALL_SECONDS) for kind in kinds])


async def _purge(retention: Retention, kinds: list[Kind], seconds: float) -> int:
    total = 0
    for kind in kinds:
        async for count in retention.purge_all(kind, seconds):
            total += count
        say(f"purge: {kind}s: done", problems)
    return total


def erase(
    destination: Annotated[str, typer.Option(help="The messages' destination.")],
    client: Annotated[str | None, typer.Option(help="Only this client's messages.")] = None,
    yes: Yes = False,
) -> None:
    """Count finished messages to one destination, dead letters included, ask, and delete them.

    Exit 3: unfinished messages are left.
    """
    with open_session(hint=REPEAT) as (_, pool):
        if not yes and (count := asyncio.run(Retention(pool).ended(destination, client, CALL_SECONDS))):
            confirm(f"Delete {count} finished messages to {destination!r} permanently?")
        total, unfinished = asyncio.run(_erase(pool, destination, client))
    say(f"erase: {total} jobs deleted")
    if unfinished:
        fail(f"{unfinished} messages to this destination are unfinished; run the command again when they have ended", 3)


async def _erase(pool: DatabasePool, destination: str, client: str | None) -> tuple[int, int]:
    """Delete the finished messages with their attempts and callbacks: the number deleted, and the number unfinished."""
    retention, total = Retention(pool), 0
    while count := await retention.erase(destination, client, CALL_SECONDS):
        total += count
    return total, await retention.under_way(destination, client, CALL_SECONDS)
