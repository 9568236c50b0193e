"""The relay process: publishes due outbox rows, starts recurring reports, sweeps lost messages, tidies, purges."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from consumers import monitoring
from consumers.maintenance import DeadWatch, maintain
from consumers.operator_watch import watch_ledger
from consumers.process import heartbeat, run_until, wait_for_schema
from consumers.relay import Relay
from consumers.scheduler import Scheduler
from consumers.sweeper import Sweeper
from infra.postgres import compatibility
from infra.postgres.conditions import ConditionStore
from infra.postgres.dead_letters import DeadLetterStore
from infra.postgres.figures import LedgerSample
from infra.postgres.leadership import Leadership
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.retention import Retention
from infra.postgres.schedules import ScheduleStore
from infra.postgres.sweep import Sweep
from infra.rabbitmq.dead_queue import DeadQueues
from infra.rabbitmq.topology import describe
from infra.redis.figures import FiguresStore
from infra.tracing import Tracing
from jobs.model import work_queues
from service.activity import Activity, ActivityReports
from service.dead_letters import Tidier
from service.figures import LedgerSampler, publish_samples
from service.ledger_metrics import LedgerMetrics
from service.operator_events import operator_events
from service.settings import Settings
from service.tracing import create_publisher, start_tracing


class _Pools:
    """The pools of one relay process. Sweeps and purges have their own, so that they do not delay publishing."""

    def __init__(self, url: str):
        self.relay = DatabasePool(url, name="relay", threads=2)
        self.sweep = DatabasePool(url, name="sweep", threads=2)
        self.purge = DatabasePool(url, name="purge", threads=1)
        self.figures = DatabasePool(url, name="figures", threads=1)
        self.relay_leadership = Leadership(url, "relay")
        self.tidy_leadership = Leadership(url, "dead letters")

    def close(self) -> None:
        for connection in (self.relay, self.sweep, self.purge, self.figures, self.relay_leadership, self.tidy_leadership):
            connection.close()


async def run_relay(settings: Settings, stop: asyncio.Event) -> None:
    """Publish due messages until `stop`.

    Raises:
        SettingsError: the extra `tracing` is not installed.
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    tracing = start_tracing(settings, "relay")
    pools, figures = _Pools(settings.database_url), FiguresStore(settings.redis_url, namespace=settings.namespace)
    try:
        if await wait_for_schema(pools.relay, settings.namespace, stop):
            await run_until(stop, _loops(settings, pools, figures, tracing))
    finally:
        pools.close()
        await figures.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _loops(
    settings: Settings, pools: _Pools, figures: FiguresStore, tracing: Tracing | None
) -> list[Coroutine[Any, Any, None]]:
    topology = describe(settings.namespace, settings.providers)
    publisher = create_publisher(settings.amqp_url, topology, name="relay", tracing=tracing)
    ready, after_seconds = publisher.ready_messages, settings.sweep_after_seconds
    relay = Relay(
        Outbox(pools.relay),
        publisher,
        pools.relay_leadership.held,
        queues=frozenset(spec.logical for spec in topology.queues),
        ready_depth=settings.ready_depth,
        poll_seconds=settings.relay_poll_seconds,
    )
    sweep, queues = Sweep(pools.sweep), work_queues(settings.providers)
    sweeper = Sweeper(sweep, ready, queues, lambda: relay.is_leading, after_seconds=after_seconds)
    schedules = ScheduleStore(pools.sweep, keys_off=settings.auth == "off")
    scheduler = Scheduler(schedules, lambda: relay.is_leading, settings.callback_url)
    letters = DeadLetterStore(pools.relay)
    tidier = Tidier(letters, DeadQueues(settings.amqp_url, topology), pools.tidy_leadership)
    ledger = Ledger(pools.relay, grace_seconds=settings.outbox_grace_seconds)
    schema_check = partial(compatibility.check, pools.relay, settings.namespace)
    sampler = LedgerSampler(LedgerSample(pools.figures, settings.providers).take)
    exposed = LedgerMetrics(lambda: relay.is_leading)
    exposed.register()
    events = operator_events(ConditionStore(pools.figures), settings)
    watches = (
        []
        if events is None
        else [watch_ledger(events, sampler.sample, lambda: relay.is_leading, pools.figures.contact_seconds)]
    )
    return [
        publisher.run(),
        relay.run(),
        sweeper.run(),
        scheduler.run(),
        DeadWatch(tidier, ready, letters.count).run(after_seconds),
        maintain(ledger, Retention(pools.purge), settings.retention_days),
        publish_samples(sampler, figures, lambda: relay.is_leading, exposed.observe),
        ActivityReports(figures, Activity(), "relay").run(),
        monitoring.vitals(pools.relay, publisher, figures).run(),
        heartbeat(settings.heartbeat_file, publisher.connected.is_set, schema_check),
        *watches,
    ]
