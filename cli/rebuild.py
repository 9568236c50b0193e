"""`posthaste rebuild`: publishes again, at once, whatever waits in the ledger and has no message on its way."""

from collections.abc import Callable
from datetime import timedelta

from infra.postgres.pool import DatabasePool
from infra.postgres.sweep import BATCH, Sweep
from infra.rabbitmq.inspection import inspect
from infra.rabbitmq.topology import describe
from jobs.model import DEAD_QUEUES, Kind, WorkQueue, work_queues
from service.settings import Settings

CALL_SECONDS = 30.0


async def rebuild(settings: Settings, say: Callable[[str], None]) -> int:
    """Give outbox rows to every job that is due and has none, and to the dead letters of an empty dead queue; how many.

    Safe at any time: where a message is on its way after all, its copy matches nothing (rule 3). The relay publishes them.

    Raises:
        Unavailable, TryAgain: Postgres does not answer; run it again.
        BrokerDown: RabbitMQ cannot be asked whether the dead queues are empty.
    """
    pool = DatabasePool(settings.database_url, name="rebuild", threads=1, statement_seconds=CALL_SECONDS)
    try:
        sweep, total = Sweep(pool), 0
        for work in work_queues(settings.providers):
            jobs = await _requeue(sweep, work)
            say(f"{work.name}: {jobs} jobs to be published again")
            total += jobs
        states = {state.logical: state for state in await inspect(settings.amqp_url, describe(settings.namespace, []))}
        for kind, queue in DEAD_QUEUES.items():
            if states[queue].ready:
                say(f"{queue}: not empty ({states[queue].ready} messages), left as it is")
                continue
            jobs = await _refill(sweep, kind)
            say(f"{queue}: {jobs} dead letters to be published again")
            total += jobs
        return total
    finally:
        pool.close()


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
