"""The API's composition root: reads no settings itself, connects everything it is told to, and keeps it running."""

import asyncio
import importlib.metadata
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.callbacks import CallbackUrls
from api.dead_letters import DeadLetterRoutes
from api.health import HealthRoutes
from api.intake import Intake
from api.messages import MessageRoutes
from api.problems import Problem, on_bug, on_http_exception, on_problem
from api.report_jobs import ReportJobRoutes
from api.reports import AT_ONCE, ReportRoutes
from api.waiting import Waiting
from infra.batching import Batcher, DeadlineExceeded
from infra.dead_letters import DeadLetters
from infra.postgres import schema
from infra.postgres.dead_books import DeadBooks
from infra.postgres.errors import BadData, TryAgain, Unavailable
from infra.postgres.lanes import Lane
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.queries import Queries
from infra.postgres.totals import Totals
from infra.publishing import EagerPublisher
from infra.rabbitmq.publisher import NotPublished, Publisher
from infra.rabbitmq.topology import describe
from infra.redis.events import Events
from infra.redis.status_cache import CacheDown, StatusCache
from infra.settings import Settings
from infra.statuses import Statuses
from infra.watching import Watching

log = structlog.get_logger()

REPEAT = (Unavailable, TryAgain)
FORGET_SECONDS = 30.0
CHECK_SECONDS = 0.8
REREAD_SECONDS = 5.0  # what a waiting client was not told of, it is told of then


class Api:
    """Everything that one API process is made of."""

    def __init__(self, settings: Settings, fatal: Callable[[Exception], None]):
        self._settings = settings
        self._fatal = fatal
        self._default_provider = settings.provider_for_new_messages()
        self._hot = Lane(settings.database_url, name="api hot path", threads=4)
        self._reads = Lane(settings.database_url, name="api reads", threads=4)
        self._reports = Lane(settings.database_url, name="api reports", threads=AT_ONCE, scans=True)
        self._ledger = Ledger(self._hot, grace_seconds=settings.outbox_grace_seconds)
        self._queries = Queries(self._reads)
        self._cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
        self._watching: Watching | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen = "not seen yet"  # what is wrong with Postgres or its schema; "" once it is well

    def build(self) -> ASGIApp:
        """The ASGI application; what needs a running loop is connected in its lifespan."""
        app = Starlette(
            lifespan=self._lifespan,
            exception_handlers={Problem: on_problem, HTTPException: on_http_exception, Exception: on_bug},
        )
        return RequestIds(app)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        settings, self._loop = self._settings, asyncio.get_running_loop()
        broker = Publisher(settings.amqp_url, describe(settings.namespace, settings.providers), name="api")
        deletes = Batcher(Outbox(self._hot).delete, repeat=REPEAT)
        eager = EagerPublisher(
            broker,
            lambda pointer: deletes.submit(pointer, FORGET_SECONDS),
            failures=(NotPublished, DeadlineExceeded),
        )
        statuses = Statuses(self._cache, self._queries.statuses, cache_down=CacheDown, repeat=REPEAT)
        watching = self._watching = Watching(statuses.read_ledger, reread_seconds=REREAD_SECONDS)
        events = Events(settings.redis_url, namespace=settings.namespace, heard=watching.heard)
        waiting = Waiting(statuses, watching)
        accepting = Batcher(self._ledger.accept, isolate=(BadData,), repeat=REPEAT)
        intake = Intake(
            accepting,
            eager,
            statuses,
            grace_seconds=settings.outbox_grace_seconds,
            timeout_seconds=settings.accept_timeout_seconds,
        )
        # As many clients may be woken at once, and ask for their records. Small batches: a body may have 64 KiB.
        records = Batcher(self._queries.messages, key=lambda id_: id_, repeat=REPEAT, max_batch=100)
        callbacks = CallbackUrls(settings.guard(), settings.callback_url, on=bool(settings.callback_secrets))
        books, providers = DeadBooks(self._reads), frozenset(settings.providers)
        messages = MessageRoutes(intake, waiting, records, self._queries, callbacks, providers, self._default_provider)
        reports = ReportJobRoutes(intake, waiting, self._queries, Totals(self._reads), callbacks)
        app.router.routes += [
            *messages.routes(),
            *ReportRoutes(self._reports).routes(),
            *reports.routes(),
            *DeadLetterRoutes(books, DeadLetters(books, settings.deadlines()), providers).routes(),
            *self._health(broker).routes(),
        ]
        tasks = [asyncio.create_task(run) for run in (self._watch_schema(), broker.run(), eager.run(), events.run())]
        try:
            yield
        finally:
            await accepting.drained()
            await eager.finish(1.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._cache.close()
            await events.close()
            for lane in (self._hot, self._reads, self._reports):
                lane.close()

    def ending(self) -> None:
        """The process was told to end: whoever waits is to be answered now. May be called from a signal's handler."""
        if self._watching is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._watching.close)

    async def _watch_schema(self) -> None:
        """Until Postgres has been seen with a schema that fits; one that is too old ends the process."""

        def waiting(reason: str) -> None:
            self._seen = reason

        try:
            await schema.wait_until_fit(self._reads, self._settings.namespace, waiting)
        except (schema.SchemaTooOld, schema.ForeignNamespace) as error:
            self._fatal(error)
        else:
            waiting("")
            log.info("api.ready", host=self._settings.host, port=self._settings.port)

    def _health(self, broker: Publisher) -> HealthRoutes:
        async def postgres() -> str | None:
            return self._seen or await _says(self._queries.answers(CHECK_SECONDS), REPEAT)

        async def redis() -> str | None:
            return await _says(self._cache.answers(), (CacheDown,))

        async def rabbitmq() -> str | None:
            return None if broker.connected.is_set() else "not connected"

        version = {
            "name": "posthaste",
            "version": importlib.metadata.version("posthaste"),
            "schema": schema.code_revision(),
        }
        return HealthRoutes(postgres, {"rabbitmq": rabbitmq, "redis": redis}, version)


async def _says(check: Awaitable[None], errors: tuple[type[Exception], ...]) -> str | None:
    try:
        await check
    except errors as error:
        return str(error)
    return None


class RequestIds:
    """Gives each request an id: the client's own `X-Request-ID` where it is a plain one, else a new one; answers with it."""

    _PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,64}")

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if self._PLAIN.fullmatch(given) else uuid.uuid4().hex.encode()
        scope["posthaste.request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)
