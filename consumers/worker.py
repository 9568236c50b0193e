"""The worker process: consumes jobs of some kinds and reaps lost leases."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from consumers.callbacks import Hosts, SendCallback
from consumers.gate import Gate
from consumers.heartbeat import Heartbeat
from consumers.messages import SendMessage
from consumers.modes import Concurrent, Exclusive
from consumers.pauses import ProviderPauses
from consumers.reaper import Reaper
from consumers.renewer import Renewer
from consumers.reports import CountWords
from consumers.runner import Lease, Runner, Work
from consumers.slots import Slots
from consumers.startup import wait_for_schema
from consumers.watchdog import Watchdog
from infra.postgres import compatibility
from infra.postgres.job_reads import JobReads
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.providers import ProviderStore
from infra.postgres.totals import Totals
from infra.providers.http import HttpProvider
from infra.rabbitmq.consumer import Consumer
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import describe
from infra.redis.status_cache import StatusCache
from infra.webhooks.sender import CallbackSender
from infra.webhooks.signing import Signer
from jobs.breaker import BreakerPolicy
from jobs.model import Kind, WorkQueue, work_queues
from jobs.outcome import RELEASED_AT_SHUTDOWN
from service.announcing import Announcer
from service.batching import ledger_batcher
from service.publishing import EagerPublisher
from service.recording import Recorder
from service.settings import Settings
from service.statuses import Statuses

log = structlog.get_logger()

DELETE_SECONDS = 30.0
REPORTS_AT_ONCE = 1  # a report occupies one processor: more reports need more processes


class _Adapters:
    """The connections of one worker process. None connects before its first use."""

    def __init__(self, settings: Settings):
        url = settings.database_url
        # Workers record within the margin, so a shorter silence of Postgres expires no lease.
        self.hot = DatabasePool(url, name="worker hot path", threads=4, silence_seconds=settings.lease_margin_seconds)
        self.reads = DatabasePool(url, name="worker reads", threads=1)
        self.posts = DatabasePool(
            url, name="worker reports", threads=REPORTS_AT_ONCE, scans=True, background=True, statement_seconds=30
        )
        self.cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
        self.providers = {
            name: HttpProvider(provider.url, timeout_seconds=provider.timeout_seconds, concurrency=provider.concurrency)
            for name, provider in settings.providers.items()
        }
        self.callbacks = CallbackSender(
            settings.guard(),
            Signer(settings.callback_secrets),
            timeout_seconds=settings.callback_timeout_seconds,
            concurrency=settings.callback_concurrency,
        )

    async def close(self) -> None:
        for provider in self.providers.values():
            await provider.close()
        await self.callbacks.close()
        await self.cache.close()
        for pool in (self.hot, self.reads, self.posts):
            pool.close()


@dataclass(frozen=True, slots=True)
class _Worker:
    """The parts that shut down in order, and the loops that run until then."""

    consumer: Consumer
    runner: Runner
    eager: EagerPublisher
    loops: list[Coroutine[Any, Any, None]]


async def run_worker(settings: Settings, stop: asyncio.Event, kinds: frozenset[Kind]) -> None:
    """Consume jobs of these kinds and reap lost leases until `stop`, then shut down in order.

    Raises:
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    adapters = _Adapters(settings)
    try:
        if await wait_for_schema(adapters.hot, settings.namespace, stop):
            log.info("worker.ready", kinds=sorted(kind.value for kind in kinds), providers=sorted(settings.providers))
            await _run(_build(settings, kinds, adapters), settings.shutdown_grace_seconds, stop)
    finally:
        await adapters.close()


async def _run(worker: _Worker, grace_seconds: float, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in worker.loops]
        await stop.wait()
        log.info("worker.stopping", grace_seconds=grace_seconds)
        await worker.consumer.stop()
        await worker.runner.stop(grace_seconds)
        await worker.eager.finish(2.0)
        for task in tasks:
            task.cancel()


def _build(settings: Settings, kinds: frozenset[Kind], adapters: _Adapters) -> _Worker:
    topology = describe(settings.namespace, settings.providers)
    ledger = Ledger(adapters.hot, grace_seconds=settings.outbox_grace_seconds, retain_body=settings.retain_body)
    slots = _slots(settings, kinds)
    # The prefetch only fills the slots. An exclusive queue prefetches one job: another worker may take the next.
    prefetch = {queue.name: queue_slots.count for queue, queue_slots in slots.items()}
    consumer = Consumer(settings.amqp_url, topology, prefetch, name="worker", repair_after_seconds=settings.watchdog_seconds)
    gates = _gates(settings, slots, consumer)
    publisher = Publisher(settings.amqp_url, topology, name="worker")
    deletes = ledger_batcher(Outbox(adapters.hot).delete)
    eager = EagerPublisher(publisher, lambda pointer: deletes.submit(pointer, DELETE_SECONDS))
    recorder = _recorder(settings, adapters, ledger, eager)
    lease = Lease(settings.lease_seconds, settings.lease_margin_seconds, settings.lost_leases)
    renewer = Renewer(ledger, lease.seconds)
    modes = Concurrent(renewer, lease.limit), Exclusive(renewer, consumer)
    works = _works(settings, adapters, slots, gates, modes)
    claims = ledger_batcher(ledger.claim, key=lambda request: (request.id, request.version), duplicate=lambda _: None)
    runner = Runner(works, claims, recorder, lease)
    watchdog = Watchdog(
        consumer,
        {queue.name: queue_slots.is_idle for queue, queue_slots in slots.items()},
        publisher.ready_messages,
        seconds=settings.watchdog_seconds,
    )
    heartbeat = Heartbeat(
        settings.heartbeat_file,
        lambda: consumer.is_connected and publisher.connected.is_set(),
        partial(compatibility.check, adapters.reads, settings.namespace),
    )
    reaper = Reaper(ledger, recorder, settings.policies(), lease_seconds=settings.lease_seconds)
    pauses = ProviderPauses(ProviderStore(adapters.reads), gates)
    loops = [
        pauses.then(partial(consumer.run, runner.dispatch)),
        publisher.run(),
        eager.run(),
        reaper.run(),
        pauses.run(),
        watchdog.run(),
        heartbeat.run(),
        *(gate.run() for gate in gates.values()),
    ]
    return _Worker(consumer, runner, eager, loops)


def _slots(settings: Settings, kinds: frozenset[Kind]) -> dict[WorkQueue, Slots]:
    """The queues that this worker consumes, with their slots. The priorities of one provider share its slots."""
    slots: dict[WorkQueue, Slots] = {}
    by_provider = {name: Slots(provider.concurrency) for name, provider in settings.providers.items()}
    for queue in work_queues(settings.providers):
        if queue.kind not in kinds:
            continue
        if queue.provider is not None:
            slots[queue] = by_provider[queue.provider]
        elif queue.kind is Kind.REPORT:
            slots[queue] = Slots(REPORTS_AT_ONCE)
        elif settings.callback_secrets:
            slots[queue] = Slots(settings.callback_concurrency)
        else:
            log.info("callbacks.off", reason="POSTHASTE_CALLBACK_SECRETS is not set", effect="due callbacks wait")
    return slots


def _gates(settings: Settings, slots: Mapping[WorkQueue, Slots], consumer: Consumer) -> dict[str, Gate]:
    """The gates by provider."""
    queues: dict[str, list[WorkQueue]] = {}
    for queue in slots:
        if queue.provider is not None:
            queues.setdefault(queue.provider, []).append(queue)
    return {
        name: Gate(
            name,
            [queue.name for queue in provider_queues],
            slots[provider_queues[0]],
            consumer,
            settings.providers[name].breaker.policy(),
        )
        for name, provider_queues in queues.items()
    }


def _works(
    settings: Settings,
    adapters: _Adapters,
    slots: Mapping[WorkQueue, Slots],
    gates: Mapping[str, Gate],
    modes: tuple[Concurrent, Exclusive],
) -> dict[str, Work]:
    """The works by logical queue."""
    concurrent, exclusive = modes
    policies = settings.policies()
    report = CountWords(adapters.posts, Totals(adapters.hot), timeout_seconds=settings.report_timeout_seconds)
    callback = SendCallback(adapters.callbacks, Hosts(settings.callback_concurrency, BreakerPolicy()))
    works: dict[str, Work] = {}
    for queue, queue_slots in slots.items():
        policy = policies[queue.name]
        if queue.provider is not None:
            message = SendMessage(adapters.providers[queue.provider])
            works[queue.name] = Work(message, policy, queue_slots, concurrent, queue.priority, gate=gates[queue.provider])
        elif queue.kind is Kind.REPORT:
            works[queue.name] = Work(report, policy, queue_slots, exclusive, on_shutdown=RELEASED_AT_SHUTDOWN)
        else:
            works[queue.name] = Work(callback, policy, queue_slots, concurrent)
    return works


def _recorder(settings: Settings, adapters: _Adapters, ledger: Ledger, eager: EagerPublisher) -> Recorder:
    statuses = Statuses(adapters.cache, JobReads(adapters.reads).statuses)
    announcer = Announcer(eager, statuses, grace_seconds=settings.outbox_grace_seconds)
    applies, late = ledger_batcher(ledger.apply), ledger_batcher(ledger.accept_late)
    return Recorder(applies, late, announcer, lost_leases=settings.lost_leases)
