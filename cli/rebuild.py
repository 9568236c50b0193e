"""`posthaste rebuild`: publish every due job whose message is lost in the broker."""

from datetime import timedelta

from cli.session import CALL_SECONDS, open_session
from cli.terminal import say
from infra.postgres.pool import DatabasePool
from infra.postgres.sweep import BATCH, Sweep
from infra.rabbitmq.inspection import inspect
from infra.rabbitmq.topology import describe
from jobs.model import DEAD_QUEUES, Kind, WorkQueue, work_queues
from service.settings import Settings


def rebuild() -> None:
    """Publish every due job whose message is lost. Safe at any time."""
    with open_session(hint="; run the command again, or see `posthaste doctor`") as session:
        total = session.run(_rebuild(session.settings, session.pool))
    say(f"rebuild: {total} in total; a running relay publishes them")


async def _rebuild(settings: Settings, pool: DatabasePool) -> int:
    """Add outbox rows for due jobs without one, and for the dead letters of each empty dead queue. Returns their number.

    Duplicates are harmless: a message whose version is stale matches nothing (rule 3).
    """
    sweep, total = Sweep(pool), 0
    for work in work_queues(settings.providers):
        jobs = await _requeue(sweep, work)
        say(f"rebuild: {work.name}: {jobs} jobs to publish")
        total += jobs
    states = {state.logical: state for state in await inspect(settings.amqp_url, describe(settings.namespace, []))}
    for kind, queue in DEAD_QUEUES.items():
        if states[queue].ready:
            say(f"rebuild: {queue}: skipped, it is not empty ({states[queue].ready} messages)")
            continue
        jobs = await _refill(sweep, kind)
        say(f"rebuild: {queue}: {jobs} dead letters to publish")
        total += jobs
    return total


async def _requeue(sweep: Sweep, queue: WorkQueue) -> int:
    before = (await sweep.observe(queue, behind_seconds=0, timeout=CALL_SECONDS)).now
    total, after = 0, None
    while True:
        page = await sweep.requeue(queue, before=before, after=after, timeout=CALL_SECONDS)
        total += page.requeued
        if page.last is None:
            return total
        after = page.last if page.last != after else page.last + timedelta(microseconds=1)


async def _refill(sweep: Sweep, kind: Kind) -> int:
    total, after = 0, "00000000-0000-0000-0000-000000000000"
    while True:
        last, count = await sweep.refill_dead(kind, after, CALL_SECONDS)
        total += count
        if last is None or count < BATCH:
            return total
        after = last
