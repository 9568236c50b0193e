"""The API's composition root: one function builds the process, and the lifespan starts and stops it."""

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import limits
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from api.answers import READ_SECONDS
from api.callers import Access, Keyring
from api.console.assets import load_assets
from api.console.bulk import BulkPages
from api.console.callbacks import CallbackPages
from api.console.dead_letters import DeadLetterPages
from api.console.gate import Gate
from api.console.keys import KeyPages
from api.console.messages import Messages
from api.console.overview import Overview
from api.console.pages import Pages
from api.console.providers import ProviderPages
from api.console.reports import ReportPages
from api.console.sampling import Sample
from api.console.schedules import SchedulePages
from api.console.search import Search
from api.console.settings import SettingsPage
from api.console.sign_in import SignIn
from api.console.streams import Streams
from api.console.views import NAVIGATION, Views, console_routes
from api.dead_letters import DeadLetterEndpoints
from api.documents import DocumentEndpoints
from api.frequent import FrequentOperations
from api.health import CHECK_SECONDS, HealthEndpoints, Startup, may_be_open
from api.jobs import Waiting
from api.measured import measure
from api.messages import MessageEndpoints
from api.middleware import AnswerHeaders, Origins
from api.openapi import document
from api.operations import FREQUENT, OPERATIONS, Endpoints
from api.problems import EXCEPTION_HANDLERS
from api.reports import AT_ONCE, ReportEndpoints
from api.request_log import RequestLog
from api.results import ResultAnswers
from api.schedules import ScheduleEndpoints, Schedules
from api.shapes import VersionOut
from api.submissions import Submissions
from api.tracing import TraceContext
from infra.postgres import compatibility
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.dead_letters import DeadLetterStore
from infra.postgres.figures import LedgerSample
from infra.postgres.job_reads import JobReads
from infra.postgres.ledger import Ledger
from infra.postgres.message_search import MessageSearch
from infra.postgres.newest import NewestReads
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.providers import ProviderStore
from infra.postgres.results import Results
from infra.postgres.schedules import ScheduleStore
from infra.rabbitmq.topology import describe
from infra.redis.events import Events
from infra.redis.figures import FiguresStore
from infra.redis.rates import Rates
from infra.redis.status_cache import StatusCache
from infra.supervision import Supervisor
from infra.tracing import Tracing
from service.activity import Activity, ActivityReports
from service.backlog import BacklogLimit
from service.dead_letters import DeadLetters
from service.figures import FiguresFeed, FiguresReader, LedgerSampler
from service.publishing import EagerPublisher, outbox_deletes
from service.settings import Settings
from service.statuses import Statuses, Subscriptions
from service.tracing import create_publisher, start_tracing, trace_acceptance
from service.transitions import Acceptance
from service.vitals import Check, Vitals, connected, failure

HOT_SECONDS = 2.0  # the longest call of the hot pools
REREAD_SECONDS = 5.0  # the longest delay of a lost notification


class _Adapters:
    """Postgres, RabbitMQ and Redis. Nothing connects before its first use."""

    def __init__(self, settings: Settings, tracing: Tracing | None):
        self.tracing = tracing
        url, redis, namespace = settings.database_url, settings.redis_url, settings.namespace
        self.hot = DatabasePool(url, name="api hot path", threads=4, statement_seconds=HOT_SECONDS)
        self.reads = DatabasePool(url, name="api reads", threads=4)
        self.keys = DatabasePool(url, name="api keys", threads=1, statement_seconds=HOT_SECONDS)
        self.counts = DatabasePool(url, name="api counts", threads=1, statement_seconds=HOT_SECONDS)
        self.samples = DatabasePool(url, name="api figures", threads=1)
        self.operators = DatabasePool(url, name="api operators", threads=2)  # exact counts may take seconds
        self.figures = FiguresStore(redis, namespace=namespace)
        self.reports = DatabasePool(url, name="api reports", threads=AT_ONCE, scans=True, statement_seconds=30)
        self.jobs = JobReads(self.reads)
        self.cache = StatusCache(redis, namespace=namespace, ttl_seconds=settings.status_ttl_seconds)
        self.rates = Rates(redis, namespace=namespace)
        topology = describe(namespace, settings.providers)
        self.broker = create_publisher(settings.amqp_url, topology, name="api", tracing=tracing)

    async def close(self) -> None:
        await self.cache.close()
        await self.rates.close()
        await self.figures.close()
        for pool in (self.hot, self.reads, self.reports, self.keys, self.counts, self.samples, self.operators):
            pool.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


class _UseCases:
    """Acceptance, publishing, statuses and subscriptions on these adapters."""

    def __init__(self, settings: Settings, adapters: _Adapters):
        grace_seconds = settings.outbox_grace_seconds
        self.publishing = EagerPublisher(
            adapters.broker, outbox_deletes(Outbox(adapters.hot).delete), grace_seconds=grace_seconds
        )
        self.statuses = Statuses(adapters.cache, adapters.jobs.statuses)
        self.events = Events(settings.redis_url, namespace=settings.namespace)
        self.subscriptions = Subscriptions(self.statuses.read_ledger, self.events.watch, reread_seconds=REREAD_SECONDS)
        self.backlog = BacklogLimit(JobReads(adapters.counts).backlog, high=settings.backlog_high, low=settings.backlog_low)
        activity = Activity()
        acceptance = Acceptance(
            Ledger(adapters.hot, grace_seconds=grace_seconds).accept,
            self.publishing,
            self.backlog,
            timeout_seconds=settings.accept_timeout_seconds,
            activity=activity,
        )
        self.acceptance = trace_acceptance(acceptance, adapters.tracing)
        self.results = ResultAnswers(Results(adapters.reads))
        self.reports = ActivityReports(adapters.figures, activity, "api")


def create_api(settings: Settings, fatal: Callable[[Exception], None]) -> tuple[ASGIApp, Callable[[], None]]:
    """Build one API process. Nothing connects before its lifespan. `fatal` ends the process.

    The second result answers all waiting requests; it runs in the event loop. Raises `SettingsError`: the extra `tracing` is
    not installed.
    """
    tracing = start_tracing(settings, "api")
    adapters = _Adapters(settings, tracing)
    use_cases = _UseCases(settings, adapters)
    keys, revoked = ApiKeyStore(adapters.keys), use_cases.subscriptions.wake
    keyring = Keyring(keys, revoked, off=settings.auth == "off", may_be_open=may_be_open(settings))
    supervisor, startup = Supervisor(), Startup(adapters.reads, keyring, settings, fatal)

    def keys_required() -> bool:
        return bool(keyring.required)

    checks = _checks(adapters, startup)
    endpoints = _endpoints(settings, adapters, use_cases, _health(checks, supervisor), keys_required)
    per_key, per_address = limits.parse(settings.rate_per_key), limits.parse(settings.rate_per_address)
    access = Access(keyring, adapters.rates.hit, per_key, per_address)
    tasks = {
        "schema": startup.run,
        "broker": adapters.broker.run,
        "publishing": use_cases.publishing.run,
        "events": lambda: use_cases.events.run(use_cases.subscriptions.notify),
        "keys": keyring.run,
        "backlog": use_cases.backlog.run,
        "figures": use_cases.reports.run,
        "vitals": Vitals(checks).run,
    }

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for name, run in tasks.items():
            supervisor.start(name, run)
        try:
            yield
        finally:
            await use_cases.acceptance.drained()
            await use_cases.publishing.finish(1.0)  # the relay publishes the rest
            await supervisor.stop()
            await use_cases.events.close()
            await adapters.close()

    routes = [operation.route(endpoints, access) for operation in OPERATIONS]
    frequent = [route for route in routes if route.name in FREQUENT]
    routes += _console(settings, adapters, use_cases, endpoints, keyring, access)
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS, lifespan=lifespan)
    app.router.redirect_slashes = False  # one path, one resource
    names = [*settings.allowed_hosts, settings.host]
    listed = bool(settings.allowed_hosts)
    origins = Origins(FrequentOperations(app, frequent), names, listed=listed, keys_required=keys_required)
    log = RequestLog(everything=settings.log_level == "debug")
    answered = AnswerHeaders(origins if tracing is None else TraceContext(origins), log.answered, measure)
    return answered, use_cases.subscriptions.close


def _endpoints(
    settings: Settings,
    adapters: _Adapters,
    use_cases: _UseCases,
    health: HealthEndpoints,
    keys_required: Callable[[], bool],
) -> Endpoints:
    jobs, providers, default = adapters.jobs, frozenset(settings.providers), settings.provider_for_new_messages()
    waiting = Waiting(use_cases.statuses, use_cases.subscriptions, settings.waiting_per_key)
    callbacks = bool(settings.callback_secrets)
    submissions = Submissions(use_cases.acceptance, settings.guard(), settings.callback_url, callbacks=callbacks)
    store, release = DeadLetterStore(adapters.reads), health.release["version"]
    schedules = Schedules(ScheduleStore(adapters.reads, keys_off=settings.auth == "off"), submissions)
    return Endpoints(
        messages=MessageEndpoints(submissions, jobs, waiting, providers, default),
        reports=ReportEndpoints(submissions, jobs, waiting, use_cases.results, adapters.reports),
        schedules=ScheduleEndpoints(schedules),
        dead_letters=DeadLetterEndpoints(store, DeadLetters(store, settings.deadlines()), providers),
        health=health,
        documents=DocumentEndpoints(lambda: document(release, providers), keys_required),
    )


def _console(
    settings: Settings,
    adapters: _Adapters,
    use_cases: _UseCases,
    endpoints: Endpoints,
    keyring: Keyring,
    access: Access,
) -> list[Route]:
    assets = load_assets()
    pages = Pages(assets, NAVIGATION)
    streams = Streams(settings.waiting_per_key, lambda: use_cases.subscriptions.closed)
    sampler = LedgerSampler(LedgerSample(adapters.samples, settings.providers).take)
    search, store = MessageSearch(adapters.reads), DeadLetterStore(adapters.operators)
    feed = FiguresFeed(FiguresReader(adapters.figures, sampler, endpoints.health.checks))
    newest = NewestReads(adapters.operators)
    letters, calls = DeadLetters(store, settings.deadlines()), Sample(lambda: newest.calls(READ_SECONDS))
    results, acceptance = Results(adapters.operators), use_cases.acceptance
    views = Views(
        sign_in=SignIn(pages, keyring, access),
        overview=Overview(pages, feed, streams),
        search=Search(pages, search, sorted(settings.providers)),
        messages=Messages(pages, search, adapters.jobs, use_cases.subscriptions, letters, streams),
        dead_letters=DeadLetterPages(pages, store, letters),
        bulk=BulkPages(pages, store, letters, adapters.jobs, sorted(settings.providers)),
        reports=ReportPages(pages, newest, adapters.jobs, results, use_cases.results, acceptance, settings.callback_url),
        schedules=SchedulePages(pages, endpoints.schedules.schedules),
        providers=ProviderPages(pages, feed, streams, ProviderStore(adapters.operators), calls, settings.providers),
        callbacks=CallbackPages(pages, newest, bool(settings.callback_secrets)),
        keys=KeyPages(pages, ApiKeyStore(adapters.operators)),
        settings=SettingsPage(pages, settings),
    )
    return console_routes(views, Gate(keyring, access, pages), assets, pages)


def _checks(adapters: _Adapters, startup: Startup) -> dict[str, Check]:
    """The checks of the services, by name."""

    async def postgres() -> str | None:
        return startup.waiting_for or await failure(adapters.jobs.answers(CHECK_SECONDS))

    async def redis() -> str | None:
        return await failure(adapters.cache.ping())

    return {"postgres": postgres, "rabbitmq": connected(adapters.broker.connected), "redis": redis}


def _health(checks: Mapping[str, Check], supervisor: Supervisor) -> HealthEndpoints:
    version = importlib.metadata.version("posthaste")
    release: VersionOut = {"name": "posthaste", "version": version, "schema": compatibility.code_revision()}
    return HealthEndpoints(checks, lambda: supervisor.down, release)
