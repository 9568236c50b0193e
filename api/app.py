"""The API's composition root: reads no settings itself, connects everything it is told to, and keeps it running."""

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import limits
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from api.callbacks import CallbackUrls
from api.callers import Access, Keyring, NoKeys
from api.dead_letters import DeadLetterRoutes
from api.documents import DocumentRoutes
from api.health import HealthRoutes
from api.limits import RateLimits
from api.messages import MessageRoutes
from api.middleware import Headers
from api.openapi import document
from api.origins import Origins
from api.problems import (
    Problem,
    on_backlog_full,
    on_bad_data,
    on_bug,
    on_disconnect,
    on_http_exception,
    on_problem,
    on_transient,
)
from api.report_jobs import ReportJobRoutes
from api.reports import AT_ONCE, ReportRoutes
from api.waiting import Waiting
from infra.errors import Transient
from infra.keys import Scope
from infra.postgres import schema
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.dead_letters import DeadLetterStore
from infra.postgres.errors import BadData
from infra.postgres.ledger import Ledger
from infra.postgres.lists import MessageLists
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.queries import Queries
from infra.postgres.totals import Totals
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import describe
from infra.redis.events import Events
from infra.redis.rates import Rates
from infra.redis.status_cache import StatusCache
from infra.supervision import Supervisor
from service.acceptance import Acceptance
from service.announcing import Announcer
from service.backlog import BacklogFull, BacklogLimit
from service.batching import Batcher, ledger_batcher
from service.dead_letters import DeadLetters
from service.publishing import EagerPublisher
from service.settings import Settings, is_loopback
from service.statuses import Statuses
from service.subscriptions import Subscriptions

log = structlog.get_logger()

FORGET_SECONDS = 30.0
CHECK_SECONDS = 0.8
HOT_SECONDS = 2.0  # no call of these pools waits for longer
_NO_KEYS = (
    "there are no API keys, and POSTHASTE_HOST is {host}, which others can reach. Make one (`posthaste clients create NAME`, "
    "then `posthaste keys create NAME`), listen on 127.0.0.1, or say POSTHASTE_AUTH=off"
)
REREAD_SECONDS = 5.0  # what a waiting client was not told of, it is told of then


class Api:
    """Everything that one API process is made of."""

    def __init__(self, settings: Settings, fatal: Callable[[Exception], None]):
        self._settings = settings
        self._fatal = fatal
        self._default_provider = settings.provider_for_new_messages()
        self._hot = DatabasePool(settings.database_url, name="api hot path", threads=4, statement_seconds=HOT_SECONDS)
        self._reads = DatabasePool(settings.database_url, name="api reads", threads=4)
        self._keys = DatabasePool(settings.database_url, name="api keys", threads=1, statement_seconds=HOT_SECONDS)
        self._counts = DatabasePool(settings.database_url, name="api counts", threads=1, statement_seconds=HOT_SECONDS)
        self._reports = DatabasePool(
            settings.database_url, name="api reports", threads=AT_ONCE, scans=True, statement_seconds=30
        )
        self._ledger = Ledger(self._hot, grace_seconds=settings.outbox_grace_seconds)
        self._queries = Queries(self._reads)
        self._cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
        self._supervisor = Supervisor()
        self._keyring: Keyring | None = None
        self._subscriptions: Subscriptions | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen = "not seen yet"  # what is wrong with Postgres or its schema; "" once it is well

    def build(self) -> ASGIApp:
        """The ASGI application; what needs a running loop is connected in its lifespan."""
        settings = self._settings
        app = Starlette(
            lifespan=self._lifespan,
            exception_handlers={
                Problem: on_problem,
                HTTPException: on_http_exception,
                BacklogFull: on_backlog_full,
                Transient: on_transient,
                BadData: on_bad_data,
                ClientDisconnect: on_disconnect,
                Exception: on_bug,
            },
        )
        app.router.redirect_slashes = False  # a path is one path
        names = [*settings.allowed_hosts, settings.host]
        guarded = Origins(app, names, listed=bool(settings.allowed_hosts), keys_required=self._keys_required)
        return Headers(guarded)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        settings, self._loop = self._settings, asyncio.get_running_loop()
        broker = Publisher(settings.amqp_url, describe(settings.namespace, settings.providers), name="api")
        deletes = ledger_batcher(Outbox(self._hot).delete)
        eager = EagerPublisher(
            broker,
            lambda pointer: deletes.submit(pointer, FORGET_SECONDS),
        )
        statuses = Statuses(self._cache, self._queries.statuses)
        subscriptions = self._subscriptions = Subscriptions(statuses.read_ledger, reread_seconds=REREAD_SECONDS)
        events = Events(settings.redis_url, namespace=settings.namespace, notify=subscriptions.notify)
        waiting = Waiting(statuses, subscriptions, settings.waiting_per_key)
        accepting = ledger_batcher(self._ledger.accept)
        backlog = BacklogLimit(Queries(self._counts).backlog, high=settings.backlog_high, low=settings.backlog_low)
        announcer = Announcer(eager, statuses, grace_seconds=settings.outbox_grace_seconds)
        acceptance = Acceptance(accepting, announcer, backlog, timeout_seconds=settings.accept_timeout_seconds)
        # As many clients may be woken at once, and ask for their records. Small batches: a body may have 64 KiB.
        records = Batcher(self._queries.messages, key=lambda id_: id_, repeat_transient=True, max_batch=100)
        callbacks = CallbackUrls(settings.guard(), settings.callback_url, on=bool(settings.callback_secrets))
        store, providers = DeadLetterStore(self._reads), frozenset(settings.providers)
        lists = MessageLists(self._reads)
        messages = MessageRoutes(
            acceptance, waiting, records, self._queries, lists, callbacks, providers, self._default_provider
        )
        reports = ReportJobRoutes(acceptance, waiting, self._queries, Totals(self._reads), callbacks)
        rates = Rates(settings.redis_url, namespace=settings.namespace)
        access = self._access(subscriptions, rates)
        dead_letters = DeadLetterRoutes(store, DeadLetters(store, settings.deadlines()), providers)
        app.router.routes += [
            *access.to(messages.routes(), Scope.MESSAGES_READ, Scope.MESSAGES_WRITE),
            *access.to(ReportRoutes(self._reports).routes(), Scope.REPORTS),
            *access.to(reports.routes(), Scope.REPORTS),
            *access.to(dead_letters.routes(), Scope.DEAD_LETTERS),
            *self._health(broker).routes(),
            *DocumentRoutes(lambda: document(importlib.metadata.version("posthaste"), settings.providers)).routes(),
        ]
        for name, run in {
            "schema": lambda: self._watch_schema(access.keyring),
            "broker": broker.run,
            "publishing": eager.run,
            "events": events.run,
            "keys": access.keyring.run,
            "backlog": backlog.run,
        }.items():
            self._supervisor.start(name, run)
        try:
            yield
        finally:
            await accepting.drained()
            await eager.finish(1.0)
            await self._supervisor.stop()
            await self._cache.close()
            await events.close()
            await rates.close()
            for pool in (self._hot, self._reads, self._reports, self._keys, self._counts):
                pool.close()

    def _access(self, subscriptions: Subscriptions, rates: Rates) -> Access:
        settings = self._settings
        keyring = self._keyring = Keyring(
            ApiKeyStore(self._keys),
            subscriptions.wake,
            off=settings.auth == "off",
            may_be_open=self._may_be_open,
        )
        per_key, per_address = limits.parse(settings.rate_per_key), limits.parse(settings.rate_per_address)
        return Access(keyring, RateLimits(rates, per_key, per_address))

    def _keys_required(self) -> bool:
        """Whether every request needs a key, as far as is known."""
        return self._keyring is not None and bool(self._keyring.required)

    @property
    def _may_be_open(self) -> bool:
        """Whether everybody may call as long as there is no key: only this machine can, or it was said in so many words."""
        return self._settings.auth == "off" or is_loopback(self._settings.host)

    def ending(self) -> None:
        """The process was told to end: whoever waits is to be answered now. May be called from a signal's handler."""
        if self._subscriptions is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._subscriptions.close)

    async def _watch_schema(self, keyring: Keyring) -> None:
        """Until Postgres has been seen with a schema that fits; one that is too old ends the process, as missing keys do."""

        def waiting(reason: str) -> None:
            self._seen = reason

        try:
            await schema.wait_until_fit(self._reads, self._settings.namespace, waiting)
            await self._require_keys(keyring)
        except (schema.SchemaTooOld, schema.ForeignNamespace, NoKeys) as error:
            self._fatal(error)
        else:
            waiting("")
            log.info("api.ready", host=self._settings.host, port=self._settings.port)

    async def _require_keys(self, keyring: Keyring) -> None:
        """Wait until it is known whether there are keys.

        Raises:
            NoKeys: there are none, and the API may not be open.
        """
        while keyring.required is None:
            await keyring.refresh()
            await asyncio.sleep(0 if keyring.required is not None else CHECK_SECONDS)
        if not keyring.required and not self._may_be_open:
            raise NoKeys(_NO_KEYS.format(host=self._settings.host))
        if not keyring.required and self._settings.auth == "auto":
            log.warning("api.open", reason="there are no keys", effect="whoever can reach the loopback interface may call")

    def _health(self, broker: Publisher) -> HealthRoutes:
        async def postgres() -> str | None:
            return self._seen or await _down(self._queries.answers(CHECK_SECONDS))

        async def redis() -> str | None:
            return await _down(self._cache.ping())

        async def rabbitmq() -> str | None:
            return None if broker.connected.is_set() else "not connected"

        version = {
            "name": "posthaste",
            "version": importlib.metadata.version("posthaste"),
            "schema": schema.code_revision(),
        }
        checks = {"postgres": postgres, "rabbitmq": rabbitmq, "redis": redis}
        return HealthRoutes(checks, lambda: self._supervisor.down, version)


async def _down(check: Awaitable[None]) -> str | None:
    """The reason why a check fails; None when it succeeds."""
    try:
        await check
    except Transient as error:
        return str(error)
    return None
