"""The consumers' composition: what a worker and a relay are made of."""

import asyncio
from functools import partial

import structlog

from consumers.callbacks import Hosts, SendCallback
from consumers.dead_watch import DeadWatch
from consumers.gate import Gate
from consumers.heartbeat import Heartbeat
from consumers.maintenance import Maintenance
from consumers.messages import SendMessage
from consumers.reaper import Reaper
from consumers.relay import Relay
from consumers.renewer import Renewer
from consumers.reports import CountWords
from consumers.runner import Lease, Runner, Work
from consumers.slots import Slots
from consumers.sweeper import Sweeper
from consumers.watchdog import Watchdog
from infra.errors import Transient
from infra.outage_log import OutageLog
from infra.postgres import schema
from infra.postgres.dead_letters import DeadLetterStore
from infra.postgres.leadership import Leadership
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.providers import ProviderStore
from infra.postgres.queries import Queries
from infra.postgres.retention import Retention
from infra.postgres.sweep import Sweep
from infra.postgres.totals import Totals
from infra.providers.http import HttpProvider
from infra.rabbitmq.consumer import Consumer
from infra.rabbitmq.dead_queue import DeadQueues
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import describe
from infra.redis.status_cache import StatusCache
from infra.webhooks.sender import CallbackSender
from infra.webhooks.signing import Signer
from jobs.breaker import BreakerPolicy
from jobs.model import Kind, Priority, message_queue, work_queues
from jobs.outcome import CUT_SHORT
from service.announcing import Announcer
from service.batching import ledger_batcher
from service.dead_letters import Tidier
from service.publishing import EagerPublisher
from service.recording import Recorder
from service.settings import Settings
from service.statuses import Statuses

log = structlog.get_logger()

FORGET_SECONDS = 30.0
CALL_SECONDS = 10.0
HEED_SECONDS = 0.5
REPORTS_AT_ONCE = 1  # counting keeps a processor busy: more processes, not more at once


class _Worker:
    """Everything that one worker process is made of, whatever kinds of jobs it works on."""

    def __init__(self, settings: Settings, kinds: frozenset[Kind]):
        topology = describe(settings.namespace, settings.providers)
        # Workers record within the margin: a shorter silence of Postgres takes no lease from them.
        self.hot = DatabasePool(
            settings.database_url, name="worker hot path", threads=4, silence_seconds=settings.lease_margin_seconds
        )
        self._reads = DatabasePool(settings.database_url, name="worker reads", threads=1)
        self._store = ProviderStore(self._reads)
        self._posts = DatabasePool(
            settings.database_url,
            name="worker reports",
            threads=REPORTS_AT_ONCE,
            scans=True,
            background=True,
            statement_seconds=30,
        )
        self._cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
        self._providers = {
            name: HttpProvider(p.url, timeout_seconds=p.timeout_seconds, concurrency=p.concurrency)
            for name, p in settings.providers.items()
        }
        self._callbacks = CallbackSender(
            settings.guard(),
            Signer(settings.callback_secrets),
            timeout_seconds=settings.callback_timeout_seconds,
            concurrency=settings.callback_concurrency,
        )
        ledger = Ledger(self.hot, grace_seconds=settings.outbox_grace_seconds, retain_body=settings.retain_body)
        self.broker = Publisher(settings.amqp_url, topology, name="worker")
        deletes = ledger_batcher(Outbox(self.hot).delete)
        self.eager = EagerPublisher(
            self.broker,
            lambda pointer: deletes.submit(pointer, FORGET_SECONDS),
        )
        statuses = Statuses(self._cache, Queries(self._reads).statuses)
        recorder = Recorder(
            ledger_batcher(ledger.apply),
            ledger_batcher(ledger.accept_late),
            Announcer(self.eager, statuses, grace_seconds=settings.outbox_grace_seconds),
            lost_leases=settings.lost_leases,
        )
        self.gates: dict[str, Gate] = {}
        works = self._works(settings, kinds)
        # The prefetch only fills the slots; a queue whose jobs are done one by one must not hold a second one back.
        prefetch = {queue: 1 if work.exclusive else work.slots.count for queue, work in works.items()}
        self.consumer = Consumer(
            settings.amqp_url,
            topology,
            prefetch,
            lambda d: self.runner.dispatch(d),
            name="worker",
            mend_after_seconds=settings.watchdog_seconds,
        )
        self.runner = Runner(
            works,
            ledger_batcher(ledger.claim, key=lambda r: r.pointer, twin=lambda _: None),
            recorder,
            Renewer(ledger),
            self.consumer,
            Lease(settings.lease_seconds, settings.lease_margin_seconds, settings.lost_leases),
        )
        self.watchdog = Watchdog(
            self.consumer,
            {queue: partial(getattr, work.slots, "idle") for queue, work in works.items()},
            self.broker.ready_messages,
            seconds=settings.watchdog_seconds,
        )
        self.reaper = Reaper(ledger, recorder, settings.policies(), lease_seconds=settings.lease_seconds)
        self.heartbeat = Heartbeat(
            settings.heartbeat_file,
            lambda: self.consumer.is_connected and self.broker.connected.is_set(),
            partial(schema.check, self._reads, settings.namespace),
        )

    def _works(self, settings: Settings, kinds: frozenset[Kind]) -> dict[str, Work]:
        """By logical queue; the priorities of one provider share its slots."""
        works: dict[str, Work] = {}
        slots = {name: Slots(provider.concurrency) for name, provider in settings.providers.items()}
        if Kind.MESSAGE in kinds:
            for name, provider in settings.providers.items():
                queues = [message_queue(name, priority).name for priority in Priority]
                self.gates[name] = Gate(name, queues, slots[name], self, provider.breaker.policy())
        policies = settings.policies()
        for queue in work_queues(settings.providers):
            if queue.kind not in kinds:
                continue
            policy = policies[queue.name]
            if queue.provider is not None:
                handler = SendMessage(self._providers[queue.provider])
                gate = self.gates[queue.provider]
                works[queue.name] = Work(handler, policy, slots[queue.provider], queue.priority, gate=gate)
            elif queue.kind is Kind.REPORT:
                count = CountWords(self._posts, Totals(self.hot), timeout_seconds=settings.report_timeout_seconds)
                works[queue.name] = Work(count, policy, Slots(REPORTS_AT_ONCE), on_shutdown=CUT_SHORT, exclusive=True)
            elif settings.callback_secrets:
                call = SendCallback(self._callbacks, Hosts(settings.callback_concurrency, BreakerPolicy()))
                works[queue.name] = Work(call, policy, Slots(settings.callback_concurrency))
            else:
                log.info(
                    "callbacks.off", reason="POSTHASTE_CALLBACK_SECRETS is not set", effect="those that wait go on waiting"
                )
        return works

    async def pause(self, queue: str) -> None:
        await self.consumer.pause(queue)

    async def resume(self, queue: str) -> None:
        await self.consumer.resume(queue)

    async def heed(self) -> None:
        """Do as operators say of providers, within a second; until cancelled."""
        outage = OutageLog("provider_pauses", "the last known pauses hold")
        while self.gates:
            try:
                paused = await self._store.paused(HEED_SECONDS * 4)
            except Transient as error:
                outage.failed(error)
            else:
                outage.succeeded()
                for name, gate in self.gates.items():
                    gate.pause(name in paused)
            await asyncio.sleep(HEED_SECONDS)

    async def close(self) -> None:
        for provider in self._providers.values():
            await provider.close()
        await self._callbacks.close()
        await self._cache.close()
        self.hot.close()
        self._reads.close()
        self._posts.close()


async def run_worker(settings: Settings, stop: asyncio.Event, kinds: frozenset[Kind]) -> None:
    """Consume jobs of these kinds and reap lost leases until `stop`, then finish in an orderly way.

    Raises:
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    worker = _Worker(settings, kinds)
    try:
        if not await _seen(worker.hot, settings, stop):
            return
        log.info("worker.ready", kinds=sorted(kinds), providers=sorted(settings.providers))
        async with asyncio.TaskGroup() as group:
            gates = [gate.run() for gate in worker.gates.values()]
            runs = (
                worker.consumer.run(),
                worker.broker.run(),
                worker.eager.run(),
                worker.reaper.run(),
                worker.heed(),
                worker.watchdog.run(),
                worker.heartbeat.run(),
            )
            services = [group.create_task(run) for run in (*runs, *gates)]
            await stop.wait()
            log.info("worker.stopping", grace_seconds=settings.shutdown_grace_seconds)
            await worker.consumer.stop()
            await worker.runner.stop(settings.shutdown_grace_seconds)
            await worker.eager.finish(2.0)
            for service in services:
                service.cancel()
    finally:
        await worker.close()


async def run_relay(settings: Settings, stop: asyncio.Event) -> None:
    """Publish what is due until `stop`.

    Raises:
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    topology = describe(settings.namespace, settings.providers)
    pool = DatabasePool(settings.database_url, name="relay", threads=2)
    leadership = Leadership(settings.database_url, "relay")
    broker = Publisher(settings.amqp_url, topology, name="relay")
    relay = Relay(
        Outbox(pool),
        broker,
        leadership.held,
        queues=frozenset(spec.logical for spec in topology.queues),
        ready_depth=settings.ready_depth,
        poll_seconds=settings.relay_poll_seconds,
    )
    sweeping = DatabasePool(settings.database_url, name="sweep", threads=2)
    purging = DatabasePool(settings.database_url, name="purge", threads=1)
    sweeper = Sweeper(Sweep(sweeping), broker, work_queues(settings.providers), after_seconds=settings.sweep_after_seconds)
    store, tidying = DeadLetterStore(pool), Leadership(settings.database_url, "dead letters")
    dead = DeadWatch(
        Tidier(store, DeadQueues(settings.amqp_url, topology), tidying),
        broker.ready_messages,
        lambda kind: store.count(kind, CALL_SECONDS),
        every_seconds=settings.sweep_after_seconds,
    )
    try:
        if await _seen(pool, settings, stop):
            ledger = Ledger(pool, grace_seconds=settings.outbox_grace_seconds)
            keeper = Maintenance(ledger, Retention(purging), settings.retention_days)
            heartbeat = Heartbeat(
                settings.heartbeat_file,
                broker.connected.is_set,
                partial(schema.check, pool, settings.namespace),
            )
            sweep = sweeper.run(lambda: relay.is_leading)
            async with asyncio.TaskGroup() as group:
                runs = (broker.run(), relay.run(), sweep, dead.run(), keeper.run(), heartbeat.run())
                services = [group.create_task(run) for run in runs]
                await stop.wait()
                for service in services:
                    service.cancel()
    finally:
        leadership.close()
        tidying.close()
        sweeping.close()
        purging.close()
        pool.close()


async def _seen(pool: DatabasePool, settings: Settings, stop: asyncio.Event) -> bool:
    """Whether Postgres was seen with a schema that fits before `stop`."""
    seeing = asyncio.ensure_future(schema.wait_until_fit(pool, settings.namespace, lambda _: None))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({seeing, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not seeing.done():
        seeing.cancel()
        return False
    seeing.result()
    return True
