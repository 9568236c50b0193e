"""The worker process: consumes jobs of some kinds and reaps lost leases."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from consumers import monitoring
from consumers.gate import Gate, ProviderPauses
from consumers.handlers import send_callback, send_message
from consumers.hosts import Hosts
from consumers.modes import Concurrent, Exclusive, Renewer
from consumers.operator_watch import BreakerReports, RelayWatch
from consumers.process import heartbeat, run_until, wait_for_schema
from consumers.reaper import Reaper
from consumers.relay import QueuePublisher
from consumers.runner import Runner, Work
from consumers.slots import Slots
from consumers.tracing import traced
from consumers.watchdog import Watchdog
from consumers.worker_lock import WorkerLock
from infra.postgres import compatibility
from infra.postgres.conditions import ConditionStore
from infra.postgres.job_reads import JobReads
from infra.postgres.leadership import WorkerSession
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.providers import ProviderStore
from infra.providers.http import HttpProvider
from infra.rabbitmq.consumer import Consumer
from infra.rabbitmq.topology import describe
from infra.redis.figures import FiguresStore
from infra.redis.status_cache import StatusCache
from infra.tracing import trace_headers
from infra.webhooks.sender import CallbackSender
from infra.webhooks.signing import Signer
from jobs.breaker import Breaker, BreakerPolicy
from jobs.model import CALLBACKS, Kind, Priority, WorkQueue, message_queue, work_queues
from jobs.outcome import RELEASED_AT_SHUTDOWN
from service.activity import Activity
from service.batching import ledger_batcher
from service.operator_events import operator_events
from service.publishing import EagerPublisher, outbox_deletes
from service.settings import CALLBACK_WAIT_SECONDS, Settings
from service.statuses import Statuses
from service.tracing import create_publisher, start_tracing, trace_recorder
from service.transitions import Recorder, claim_batcher

if TYPE_CHECKING:
    from consumers.reports.run import Reporter

log = structlog.get_logger()

REPORTS_AT_ONCE = 1  # a report occupies every lane: more reports need more workers


class _Adapters:
    """The connections of one worker process. None connects before its first use."""

    def __init__(self, settings: Settings, slots: Mapping[WorkQueue, Slots]):
        self.tracing = start_tracing(settings, "worker")
        traces = None if self.tracing is None else trace_headers
        self.providers = _providers(settings, traces) if any(queue.provider for queue in slots) else {}
        url, topology = settings.database_url, describe(settings.namespace, settings.providers)
        # Workers record within the margin, so a shorter silence of Postgres expires no lease.
        self.hot = DatabasePool(url, name="worker hot path", threads=4, silence_seconds=settings.lease_margin_seconds)
        self.reads = DatabasePool(url, name="worker reads", threads=1)
        self.reports = _reports(settings, self.hot) if any(queue.kind is Kind.REPORT for queue in slots) else None
        self.lock = WorkerSession(url, settings.lease_seconds)
        self.ledger = Ledger(self.hot, grace_seconds=settings.outbox_grace_seconds, retain_body=settings.retain_body)
        self.cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
        self.figures = FiguresStore(settings.redis_url, namespace=settings.namespace)
        # The prefetch only fills the slots. An exclusive queue prefetches one job: another worker may take the next.
        prefetch = {queue.name: queue_slots.count for queue, queue_slots in slots.items()}
        self.consumer = Consumer(
            settings.amqp_url, topology, prefetch, name="worker", repair_after_seconds=settings.watchdog_seconds
        )
        self.publisher = create_publisher(settings.amqp_url, topology, name="worker", tracing=self.tracing)
        self.callbacks = CallbackSender(
            settings.guard(),
            Signer(settings.callback_secrets),
            timeout_seconds=settings.callback_timeout_seconds,
            concurrency=settings.callback_concurrency,
            trace_headers=traces,
        )

    async def close(self) -> None:
        for provider in self.providers.values():
            await provider.close()
        await self.callbacks.close()
        await self.cache.close()
        await self.figures.close()
        for connection in (self.hot, self.reads, self.lock):
            connection.close()
        if self.reports is not None:
            await asyncio.to_thread(self.reports.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


async def run_worker(settings: Settings, stop: asyncio.Event, kinds: frozenset[Kind]) -> None:
    """Consume jobs of these kinds and reap lost leases until `stop`, then shut down in order.

    Raises:
        SettingsError: a provider's secret cannot be read, or the extra `tracing` or `dask` is not installed.
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    slots = _slots(settings, kinds)
    adapters = _Adapters(settings, slots)
    try:
        if await wait_for_schema(adapters.hot, settings.namespace, stop):
            log.info("worker.ready", kinds=sorted(kind.value for kind in kinds), providers=sorted(settings.providers))
            await _run(settings, adapters, slots, stop)
    finally:
        await adapters.close()


async def _run(settings: Settings, adapters: _Adapters, slots: Mapping[WorkQueue, Slots], stop: asyncio.Event) -> None:
    ledger, consumer, publisher = adapters.ledger, adapters.consumer, adapters.publisher
    deletes = outbox_deletes(Outbox(adapters.hot).delete)
    eager = EagerPublisher(publisher, deletes, grace_seconds=settings.outbox_grace_seconds)
    statuses = Statuses(adapters.cache, JobReads(adapters.reads).statuses)
    applies, late = ledger_batcher(ledger.apply, name="apply"), ledger_batcher(ledger.accept_late)
    activity = Activity()
    recorder = Recorder(applies, late, eager, statuses, settings.lost_leases, activity)
    recorder = trace_recorder(recorder, adapters.tracing)
    gates = _gates(settings, slots, consumer)
    pauses = ProviderPauses(ProviderStore(adapters.reads).paused, gates)
    grace_seconds, worker_id = settings.worker_grace_seconds, adapters.lock.worker_id
    lock = WorkerLock(adapters.lock.held, partial(ledger.claim, worker_id=worker_id), grace_seconds)
    runner = Runner(
        _works(settings, adapters, slots, gates),
        claim_batcher(lock.claim, recorder),
        recorder,
        lease_seconds=settings.lease_seconds,
        margin_seconds=settings.lease_margin_seconds,
        is_locked=lock.covers,
    )
    monitoring.expose(runner, gates)
    is_idle = {queue.name: queue_slots.is_idle for queue, queue_slots in slots.items()}

    async def shut_down() -> None:
        log.info("worker.stopping", grace_seconds=settings.shutdown_grace_seconds)
        await consumer.stop()
        await runner.stop(settings.shutdown_grace_seconds)
        await eager.finish(2.0)

    loops = [
        pauses.then(partial(consumer.run, runner.dispatch)),
        publisher.run(),
        eager.run(),
        lock.run(),
        Reaper(ledger, recorder.record_lost, settings.policies(), settings.lease_seconds, grace_seconds, worker_id).run(),
        pauses.run(),
        Watchdog(consumer, is_idle, publisher.ready_messages, seconds=settings.watchdog_seconds).run(),
        heartbeat(
            settings.heartbeat_file,
            lambda: consumer.is_connected and publisher.connected.is_set(),
            partial(compatibility.check, adapters.reads, settings.namespace),
        ),
        monitoring.worker_reports(adapters.figures, activity, runner, gates).run(),
        monitoring.vitals(adapters.reads, publisher, adapters.figures).run(),
        *(gate.run() for gate in gates.values()),
        *_operator_watches(settings, adapters, gates),
    ]
    await run_until(stop, loops, shut_down)


def _operator_watches(settings: Settings, adapters: _Adapters, gates: Mapping[str, Gate]) -> list[Coroutine[Any, Any, None]]:
    """The watches for operator events; none without an operator's URL."""
    store = ConditionStore(adapters.reads)
    events = operator_events(store, settings)
    if events is None:
        return []
    report = partial(store.report_breakers, adapters.lock.worker_id)
    callbacks = QueuePublisher(Outbox(adapters.reads), adapters.publisher, settings.ready_depth)
    watch = RelayWatch(store.relay_is_active, events, partial(callbacks.top_up, CALLBACKS.name))
    return [BreakerReports(gates, report).run(), watch.run()]


def _slots(settings: Settings, kinds: frozenset[Kind]) -> dict[WorkQueue, Slots]:
    """The queues that this worker consumes, with their slots. The priorities of one provider share its slots."""
    if Kind.CALLBACK in kinds and not settings.callback_secrets:
        log.info("callbacks.off", reason="POSTHASTE_CALLBACK_SECRETS is not set", effect="due callbacks wait")
        kinds -= {Kind.CALLBACK}
    by_provider = {name: Slots(provider.concurrency, claims_ahead=True) for name, provider in settings.providers.items()}
    by_kind = {Kind.REPORT: Slots(REPORTS_AT_ONCE), Kind.CALLBACK: Slots(settings.callback_concurrency)}
    return {
        queue: by_kind[queue.kind] if queue.provider is None else by_provider[queue.provider]
        for queue in work_queues(settings.providers)
        if queue.kind in kinds
    }


def _providers(settings: Settings, traces: Callable[[], Mapping[str, str]] | None) -> dict[str, HttpProvider]:
    """The providers by name."""
    headers = settings.provider_headers()
    return {
        name: HttpProvider(
            provider.url,
            timeout_seconds=provider.timeout_seconds,
            concurrency=provider.concurrency,
            headers=headers[name],
            message_id_field=provider.message_id_field,
            trace_headers=traces,
        )
        for name, provider in settings.providers.items()
    }


def _reports(settings: Settings, pool: DatabasePool) -> "Reporter":
    from consumers.reports.create import create_reporter  # other workers do not import NumPy

    return create_reporter(settings, pool)


def _gates(settings: Settings, slots: Mapping[WorkQueue, Slots], consumer: Consumer) -> dict[str, Gate]:
    """The gates by provider."""
    gates: dict[str, Gate] = {}
    for name, provider in settings.providers.items():
        if message_queue(name) in slots:
            queues = [message_queue(name, priority).name for priority in Priority]
            gates[name] = Gate(
                name, queues, slots[message_queue(name)], consumer, Breaker(BreakerPolicy(**provider.breaker.model_dump()))
            )
    return gates


def _works(
    settings: Settings, adapters: _Adapters, slots: Mapping[WorkQueue, Slots], gates: Mapping[str, Gate]
) -> dict[str, Work]:
    """The works by logical queue."""
    renewer = Renewer(adapters.ledger.renew, settings.lease_seconds)
    concurrent, exclusive = Concurrent(renewer, settings.lost_leases), Exclusive(renewer, adapters.consumer)
    callback = partial(send_callback, adapters.callbacks, Hosts(settings.callback_concurrency, BreakerPolicy()))
    callback_seconds = CALLBACK_WAIT_SECONDS + settings.callback_timeout_seconds
    works: dict[str, Work] = {}
    for queue, queue_slots in slots.items():
        policy = settings.policies()[queue.name]
        if queue.provider is not None:
            provider, gate = adapters.providers[queue.provider], gates[queue.provider]
            message, seconds = partial(send_message, provider), provider.timeout_seconds
            works[queue.name] = Work(message, seconds, policy, queue_slots, concurrent, queue.priority, gate=gate)
        elif adapters.reports is not None and queue.kind is Kind.REPORT:  # its lease is renewed during the call
            report = adapters.reports.compute
            works[queue.name] = Work(report, 0.0, policy, queue_slots, exclusive, on_shutdown=RELEASED_AT_SHUTDOWN)
        else:
            works[queue.name] = Work(callback, callback_seconds, policy, queue_slots, concurrent)
        if adapters.tracing is not None:
            works[queue.name] = traced(works[queue.name], queue.kind, adapters.tracing)
    return works
