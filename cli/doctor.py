"""`posthaste doctor`: check each dependency of the service, and name each problem with its fix."""

import asyncio
import socket
import time
from collections.abc import Iterator, Set
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import typer

from cli.client import ApiError, Client
from cli.session import read_settings
from cli.terminal import AsJson, console, format_instant, print_json, say
from infra import logs
from infra.postgres import compatibility
from infra.postgres.errors import NOT_PERMITTED, PostgresError
from infra.postgres.pool import DatabasePool
from infra.rabbitmq.connection import BrokerDown
from infra.rabbitmq.inspection import QueueState, inspect
from infra.rabbitmq.topology import DELIVERY_LIMIT, describe
from infra.redis.connection import CacheDown
from infra.redis.status_cache import StatusCache
from jobs.model import CALLBACKS, Priority, message_queue
from service.settings import PREFIX, Settings, SettingsError

CALL_SECONDS = 5.0
CLOCK_SECONDS = 2.0  # of harmless skew: no delay or lease depends on equal clocks

Verdict = Literal["ok", "warning", "wrong"]
STYLES: dict[Verdict, str] = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its verdict, one sentence of detail, and the fix of a problem."""

    subject: str
    verdict: Verdict
    detail: str
    fix: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Check services, schema, queues and workers. Each problem has a fix. Exit 0: healthy, 1: problems, 2: invalid settings."""
    settings = read_settings(code=2, hint="\nfix: correct the settings (.env.example lists them), or run `make services`")
    logs.configure("error", json=False)
    findings = asyncio.run(examine(settings))
    if as_json:
        print_json({"healthy": healthy(findings), "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            console.print(f"{finding.verdict:>8}  ", style=STYLES[finding.verdict], end="")
            say(f"{finding.subject}: {finding.detail}")
            if finding.fix:
                say(f"          fix: {finding.fix}")
    raise typer.Exit(0 if healthy(findings) else 1)


def healthy(findings: list[Finding]) -> bool:
    """No finding is a problem. Warnings are none."""
    return all(finding.verdict != "wrong" for finding in findings)


async def examine(settings: Settings) -> list[Finding]:
    """Run every check, in the order in which problems are best fixed. Changes nothing."""
    postgres, paused = await _postgres(settings)
    rabbitmq, redis = await _rabbitmq(settings, paused), await _redis(settings)
    return [*_providers(settings), *postgres, *rabbitmq, redis, _api(settings)]


async def _postgres(settings: Settings) -> tuple[list[Finding], Set[str]]:
    """The findings, and the paused providers."""
    address = _without_password(settings.database_url)
    try:
        with closing(DatabasePool(settings.database_url, name="doctor", threads=1)) as pool:
            current = await compatibility.check(pool, settings.namespace, CALL_SECONDS)
            state = await compatibility.diagnose(pool, CALL_SECONDS)
    except PostgresError as error:
        fix = f"`make services` starts Postgres; or set {PREFIX}DATABASE_URL to a running one"
        if error.sqlstate == NOT_PERMITTED:
            fix = f"`posthaste migrate` with the owner's {PREFIX}MIGRATION_DATABASE_URL grants the missing privileges"
        return [Finding("postgres", "wrong", f"{address}: {error}", fix)], set()
    except compatibility.SchemaTooOld as error:
        return [Finding("schema", "wrong", str(error), "`posthaste migrate`")], set()
    except compatibility.ForeignNamespace as error:
        fix = f"correct {PREFIX}NAMESPACE or {PREFIX}DATABASE_URL"
        return [Finding("schema", "wrong", str(error), fix)], set()
    revision = compatibility.code_revision()
    schema = Finding("schema", "ok", f"at revision {revision}")
    if not current:
        schema = Finding("schema", "warning", f"newer than this code's {revision}", "upgrade this release after the migration")
    findings = [Finding("postgres", "ok", address), schema, *_indexes(state), _clock(state), *_work(settings, state)]
    return findings, state.paused.keys()


def _indexes(state: compatibility.Diagnosis) -> list[Finding]:
    fix = "`posthaste migrate` builds the index again"
    return [
        Finding("indexes", "wrong", f"{name} is not valid: its statements scan the whole table", fix)
        for name in state.invalid_indexes
    ]


def _clock(state: compatibility.Diagnosis) -> Finding:
    skew = abs((datetime.now(UTC) - state.clock).total_seconds())
    if skew > CLOCK_SECONDS:
        fix = "set the clock of this machine or of Postgres' (NTP); delays and leases go by Postgres' clock and stay correct"
        return Finding("clock", "warning", f"{skew:.1f} s apart from Postgres' clock", fix)
    return Finding("clock", "ok", f"within {CLOCK_SECONDS:g} s of Postgres'")


def _work(settings: Settings, state: compatibility.Diagnosis) -> Iterator[Finding]:
    for name, jobs in state.waiting.items():
        if name not in settings.providers:
            detail = f"{jobs} jobs wait for provider {name!r}, which is not configured"
            fix = f"add {name!r} to {PREFIX}PROVIDERS and restart; the jobs continue automatically"
            yield Finding("providers", "wrong", detail, fix)
    for name, instant in state.paused.items():
        detail = f"paused since {format_instant(instant)} by an operator; resume with `posthaste providers resume {name}`"
        yield Finding(f"provider {name}", "ok", detail)
    if not state.relays:
        yield Finding("relay", "wrong", "no relay is running", "`posthaste relay`, or `posthaste up`")
    elif state.overdue:
        detail = f"{state.overdue} outbox rows are overdue by a minute"
        yield Finding("relay", "warning", detail, "read the relay's log; can it reach RabbitMQ?")
    else:
        yield Finding("relay", "ok", "running, no row is overdue")


async def _rabbitmq(settings: Settings, paused: Set[str]) -> list[Finding]:
    address = _without_password(settings.amqp_url)
    try:
        states = await inspect(settings.amqp_url, describe(settings.namespace, settings.providers))
    except BrokerDown as error:
        fix = f"`make services` starts RabbitMQ; or set {PREFIX}AMQP_URL to a running one"
        if "ACCESS_REFUSED" in str(error):
            fix = 'correct the user or password; docs/operations.md, "Roles and users", says how to create the user'
        return [Finding("rabbitmq", "wrong", f"{address}: {error}", fix)]
    topology = [_misfit(state) for state in states if state.problem]
    topology = topology or [Finding("topology", "ok", f"{len(states)} queues are as declared")]
    return [Finding("rabbitmq", "ok", address), *topology, *_consumers(settings, states, paused)]


def _misfit(state: QueueState) -> Finding:
    if state.problem == "missing":
        fix = "start any process of the service: each declares all queues"
        return Finding("topology", "wrong", f"queue {state.name} is missing", fix)
    detail = f"queue {state.name} exists with other arguments than this release declares (406): {state.problem}"
    fix = f"delete it in the management UI (ours are quorum queues with x-delivery-limit {DELIVERY_LIMIT}); any process "
    return Finding("topology", "wrong", detail, fix + "declares it again, and `posthaste rebuild` publishes its jobs")


def _consumers(settings: Settings, states: list[QueueState], paused: Set[str]) -> Iterator[Finding]:
    """Check that each work queue has a consumer. Queues of paused providers need none.

    Without secrets, the queue of callbacks needs none unless it holds jobs.
    """
    if all(state.problem for state in states):
        return
    pauses = {message_queue(name, priority).name for name in paused for priority in Priority}
    idle = [state for state in states if not (state.problem or state.consumers or state.logical.endswith(".dead"))]
    unsigned = [state for state in idle if state.logical == CALLBACKS.name and not settings.callback_secrets]
    missing = [state for state in idle if state not in unsigned and state.logical not in pauses]
    if missing:
        names = ", ".join(f"{state.name} ({state.ready} ready)" for state in missing)
        fix = "`posthaste consume`, or `posthaste up`; none is needed while the provider's breaker is open"
        yield Finding("workers", "wrong", f"no worker consumes {names}", fix)
    else:
        yield Finding("workers", "ok", f"every work queue{' of an active provider' if pauses else ''} has a consumer")
    for state in unsigned:
        if state.ready:
            fix = f"set {PREFIX}CALLBACK_SECRETS (`posthaste callbacks secret` makes one) and restart the workers"
            yield Finding("callbacks", "wrong", f"{state.ready} wait in {state.name}, and no secret is set to sign them", fix)


async def _redis(settings: Settings) -> Finding:
    address = _without_password(settings.redis_url)
    cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
    try:
        await cache.ping()
    except CacheDown as error:
        fix = f"`make services` starts Redis; or set {PREFIX}REDIS_URL. Until then statuses come from Postgres"
        return Finding("redis", "wrong", f"{address}: {error}", fix)
    finally:
        await cache.close()
    return Finding("redis", "ok", address)


def _providers(settings: Settings) -> Iterator[Finding]:
    """Check that each provider's secrets can be read, and that it accepts connections."""
    if not settings.providers:
        yield Finding("providers", "wrong", "no provider is configured", f"set {PREFIX}PROVIDERS; see .env.example")
    try:
        settings.provider_headers()
    except SettingsError as error:
        for fault in str(error).splitlines():
            yield Finding("providers", "warning", fault, "set it for the workers; doctor sees only its own environment")
    for name, provider in settings.providers.items():
        url = urlsplit(provider.url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        try:
            with socket.create_connection((host, port), timeout=2):
                yield Finding(f"provider {name}", "ok", f"{host}:{port} accepts connections")
        except OSError as error:
            fix = f"start it, or correct its url in {PREFIX}PROVIDERS; until then its messages wait, uncharged"
            yield Finding(f"provider {name}", "warning", f"{host}:{port}: {error.strerror or error}", fix)


def _api(settings: Settings) -> Finding:
    address = f"{settings.host}:{settings.port}"
    started = time.monotonic()
    try:
        if Client(settings.api_url, timeout_seconds=2).call("/health/live") == {"status": "live"}:
            return Finding("api", "ok", f"answers on {address} ({1000 * (time.monotonic() - started):.1f} ms)")
    except ApiError as error:
        return Finding("api", "wrong", str(error), "`posthaste api`, or `posthaste up`; restart an API that hangs")
    return Finding("api", "wrong", f"another service answers on {address}", f"set {PREFIX}PORT")


def _without_password(url: str) -> str:
    """The URL without user, password and query. Its hosts stay as written: libpq's URLs may name several."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
