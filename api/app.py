"""The API's composition root: one function builds the process, and the lifespan starts and stops it."""

import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import limits
from starlette.applications import Starlette
from starlette.types import ASGIApp

from api.callbacks import CallbackUrls
from api.callers import Access, Keyring
from api.dead_letters import DeadLetterEndpoints
from api.documents import DocumentEndpoints
from api.health import HealthEndpoints
from api.job_history import JobHistory
from api.limits import RateLimits
from api.messages import MessageEndpoints
from api.middleware import Headers
from api.openapi import document
from api.operations import OPERATIONS, Endpoints
from api.origins import Origins
from api.problems import EXCEPTION_HANDLERS
from api.report_jobs import ReportJobEndpoints
from api.reports import AT_ONCE, ReportEndpoints
from api.shapes import VersionOut
from api.startup import CHECK_SECONDS, Startup, may_be_open
from api.waiting import Waiting
from infra.errors import Transient
from infra.postgres import compatibility
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.dead_letters import DeadLetterStore
from infra.postgres.job_reads import JobReads
from infra.postgres.ledger import Ledger
from infra.postgres.messages import Messages
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.reports import Reports
from infra.postgres.totals import Totals
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import describe
from infra.redis.events import Events
from infra.redis.rates import Rates
from infra.redis.status_cache import StatusCache
from infra.supervision import Supervisor
from service.backlog import BacklogLimit
from service.batching import Batcher, ledger_batcher
from service.dead_letters import DeadLetters
from service.publishing import EagerPublisher
from service.settings import Settings
from service.statuses import Statuses, Subscriptions
from service.transitions import Acceptance

HOT_SECONDS = 2.0  # the longest call of the hot pools
REREAD_SECONDS = 5.0  # the longest delay of a lost notification


class _Adapters:
    """Postgres, RabbitMQ and Redis. Nothing connects before its first use."""

    def __init__(self, settings: Settings):
        url, redis, namespace = settings.database_url, settings.redis_url, settings.namespace
        self.hot = DatabasePool(url, name="api hot path", threads=4, statement_seconds=HOT_SECONDS)
        self.reads = DatabasePool(url, name="api reads", threads=4)
        self.keys = DatabasePool(url, name="api keys", threads=1, statement_seconds=HOT_SECONDS)
        self.counts = DatabasePool(url, name="api counts", threads=1, statement_seconds=HOT_SECONDS)
        self.reports = DatabasePool(url, name="api reports", threads=AT_ONCE, scans=True, statement_seconds=30)
        self.jobs = JobReads(self.reads)
        self.cache = StatusCache(redis, namespace=namespace, ttl_seconds=settings.status_ttl_seconds)
        self.rates = Rates(redis, namespace=namespace)
        self.broker = Publisher(settings.amqp_url, describe(namespace, settings.providers), name="api")

    async def close(self) -> None:
        await self.cache.close()
        await self.rates.close()
        for pool in (self.hot, self.reads, self.reports, self.keys, self.counts):
            pool.close()


class _UseCases:
    """Acceptance, publishing, statuses and subscriptions on these adapters."""

    def __init__(self, settings: Settings, adapters: _Adapters):
        grace_seconds = settings.outbox_grace_seconds
        self.publishing = EagerPublisher(
            adapters.broker, ledger_batcher(Outbox(adapters.hot).delete), grace_seconds=grace_seconds
        )
        self.statuses = Statuses(adapters.cache, adapters.jobs.statuses)
        self.subscriptions = Subscriptions(self.statuses.read_ledger, reread_seconds=REREAD_SECONDS)
        self.events = Events(settings.redis_url, namespace=settings.namespace, notify=self.subscriptions.notify)
        self.accepts = ledger_batcher(Ledger(adapters.hot, grace_seconds=grace_seconds).accept)
        self.backlog = BacklogLimit(JobReads(adapters.counts).backlog, high=settings.backlog_high, low=settings.backlog_low)
        self.acceptance = Acceptance(
            self.accepts, self.publishing, self.statuses, self.backlog, timeout_seconds=settings.accept_timeout_seconds
        )

    async def finish(self) -> None:
        """Wait for accepted jobs, and up to a second for their publishing. The relay publishes the rest."""
        await self.accepts.drained()
        await self.publishing.finish(1.0)


@dataclass(frozen=True, slots=True)
class Api:
    """The ASGI application of one process. `end_waiting` answers all waiting requests; it runs in the event loop."""

    app: ASGIApp
    end_waiting: Callable[[], None]


def create_api(settings: Settings, fatal: Callable[[Exception], None]) -> Api:
    """Build one API process. Nothing connects before its lifespan. `fatal` ends the process."""
    adapters = _Adapters(settings)
    use_cases = _UseCases(settings, adapters)
    keyring = Keyring(
        ApiKeyStore(adapters.keys),
        use_cases.subscriptions.wake,
        off=settings.auth == "off",
        may_be_open=may_be_open(settings),
    )
    supervisor, startup = Supervisor(), Startup(adapters.reads, keyring, settings, fatal)
    endpoints = _endpoints(settings, adapters, use_cases, _health(adapters, startup, supervisor))
    rates = RateLimits(adapters.rates, limits.parse(settings.rate_per_key), limits.parse(settings.rate_per_address))
    access = Access(keyring, rates)
    tasks = {
        "schema": startup.run,
        "broker": adapters.broker.run,
        "publishing": use_cases.publishing.run,
        "events": use_cases.events.run,
        "keys": keyring.run,
        "backlog": use_cases.backlog.run,
    }

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for name, run in tasks.items():
            supervisor.start(name, run)
        try:
            yield
        finally:
            await use_cases.finish()
            await supervisor.stop()
            await use_cases.events.close()
            await adapters.close()

    routes = [operation.route(endpoints, access) for operation in OPERATIONS]
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS, lifespan=lifespan)
    app.router.redirect_slashes = False  # one path, one resource
    names = [*settings.allowed_hosts, settings.host]
    origins = Origins(app, names, listed=bool(settings.allowed_hosts), keys_required=lambda: bool(keyring.required))
    return Api(Headers(origins), use_cases.subscriptions.close)


def _endpoints(settings: Settings, adapters: _Adapters, use_cases: _UseCases, health: HealthEndpoints) -> Endpoints:
    messages, providers = Messages(adapters.reads), frozenset(settings.providers)
    acceptance, history = use_cases.acceptance, JobHistory(adapters.jobs)
    waiting = Waiting(use_cases.statuses, use_cases.subscriptions, settings.waiting_per_key)
    callbacks = CallbackUrls(settings.guard(), settings.callback_url, enabled=bool(settings.callback_secrets))
    # Many waiting clients read their records at once. A body has up to 64 KiB, so batches are small.
    records = Batcher(messages.records, key=lambda id_: id_, repeat_transient=True, max_batch=100)
    reports, default = Reports(adapters.reads), settings.provider_for_new_messages()
    store, release = DeadLetterStore(adapters.reads), health.release["version"]
    return Endpoints(
        messages=MessageEndpoints(acceptance, waiting, history, records, messages, callbacks, providers, default),
        reports=ReportEndpoints(adapters.reports),
        report_jobs=ReportJobEndpoints(acceptance, waiting, history, reports, Totals(adapters.reads), callbacks),
        dead_letters=DeadLetterEndpoints(store, DeadLetters(store, settings.deadlines()), providers),
        health=health,
        documents=DocumentEndpoints(lambda: document(release, providers)),
    )


def _health(adapters: _Adapters, startup: Startup, supervisor: Supervisor) -> HealthEndpoints:
    async def postgres() -> str | None:
        return startup.waiting_for or await _failure(adapters.jobs.answers(CHECK_SECONDS))

    async def redis() -> str | None:
        return await _failure(adapters.cache.ping())

    async def rabbitmq() -> str | None:
        return None if adapters.broker.connected.is_set() else "not connected"

    release: VersionOut = {
        "name": "posthaste",
        "version": importlib.metadata.version("posthaste"),
        "schema": compatibility.code_revision(),
    }
    return HealthEndpoints({"postgres": postgres, "rabbitmq": rabbitmq, "redis": redis}, lambda: supervisor.down, release)


async def _failure(check: Awaitable[None]) -> str | None:
    """The reason why a check fails; None if it succeeds."""
    try:
        await check
    except Transient as error:
        return str(error)
    return None
