"""`posthaste doctor`: check each dependency of the service, and name each problem with its fix."""

import asyncio
import json
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from cli.client import ApiError, Client
from cli.session import read_settings
from cli.terminal import console, say
from infra import logs
from infra.postgres import compatibility
from infra.postgres.errors import NOT_PERMITTED, PostgresError
from infra.postgres.pool import DatabasePool
from infra.rabbitmq.inspection import BrokerDown, QueueState, inspect
from infra.rabbitmq.topology import DELIVERY_LIMIT, describe
from infra.redis.status_cache import CacheDown, StatusCache
from jobs.model import CALLBACKS
from service.settings import PREFIX, Settings

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


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check services, schema, queues and workers. Each problem has a fix. Exit 0: healthy, 1: problems, 2: invalid settings."""
    settings = read_settings(code=2, hint="\nfix: correct the settings (.env.example lists them), or run `make services`")
    logs.configure("error", json=False)
    findings = asyncio.run(examine(settings))
    if as_json:
        print(json.dumps(to_json(findings), indent=2))
    else:
        for finding in findings:
            console.print(f"{finding.verdict:>8}  ", style=STYLES[finding.verdict], end="")
            say(f"{finding.subject}: {finding.detail}")
            if finding.fix:
                say(f"          fix: {finding.fix}")
    raise typer.Exit(exit_code(findings))


async def examine(settings: Settings) -> list[Finding]:
    """Run every check, in the order in which problems are best fixed. Changes nothing."""
    pool = DatabasePool(settings.database_url, name="doctor", threads=1)
    try:
        postgres = await _postgres(settings, pool)
    finally:
        pool.close()
    return [*_providers(settings), *postgres, *await _rabbitmq(settings), *await _redis(settings), _api(settings)]


def exit_code(findings: list[Finding]) -> int:
    """0 healthy, 1 a problem. A warning keeps 0."""
    return int(any(finding.verdict == "wrong" for finding in findings))


def to_json(findings: list[Finding]) -> dict[str, object]:
    return {"healthy": exit_code(findings) == 0, "findings": [asdict(finding) for finding in findings]}


async def _postgres(settings: Settings, pool: DatabasePool) -> list[Finding]:
    address = _without_password(settings.database_url)
    try:
        current = await compatibility.check(pool, settings.namespace, CALL_SECONDS)
        state = await compatibility.look(pool, CALL_SECONDS)
    except PostgresError as error:
        fix = f"`make services` starts Postgres; or set {PREFIX}DATABASE_URL to a running one"
        if error.sqlstate == NOT_PERMITTED:
            fix = f"`posthaste migrate` with the owner's {PREFIX}MIGRATION_DATABASE_URL grants the missing privileges"
        return [Finding("postgres", "wrong", f"{address}: {error}", fix)]
    except compatibility.SchemaTooOld as error:
        return [Finding("schema", "wrong", str(error), "`posthaste migrate`")]
    except compatibility.ForeignNamespace as error:
        return [Finding("schema", "wrong", str(error), f"correct {PREFIX}NAMESPACE or {PREFIX}DATABASE_URL")]
    return [Finding("postgres", "ok", address), _revision(current), *_indexes(state), _clock(state), *_work(settings, state)]


def _revision(current: bool) -> Finding:
    revision = compatibility.code_revision()
    if current:
        return Finding("schema", "ok", f"at revision {revision}")
    return Finding("schema", "warning", f"newer than this code's {revision}", "upgrade this release after the migration")


def _indexes(state: compatibility.Look) -> list[Finding]:
    fix = "`posthaste migrate` builds the index again"
    return [
        Finding("indexes", "wrong", f"{name} is not valid: its statements scan the whole table", fix)
        for name in state.invalid_indexes
    ]


def _clock(state: compatibility.Look) -> Finding:
    skew = abs((datetime.now(UTC) - state.clock).total_seconds())
    if skew > CLOCK_SECONDS:
        fix = "set the clock of this machine or of Postgres' (NTP); delays and leases go by Postgres' clock and stay correct"
        return Finding("clock", "warning", f"{skew:.1f} s apart from Postgres' clock", fix)
    return Finding("clock", "ok", f"within {CLOCK_SECONDS:g} s of Postgres'")


def _work(settings: Settings, state: compatibility.Look) -> list[Finding]:
    findings = []
    for name, jobs in state.waiting.items():
        if name not in settings.providers:
            detail = f"{jobs} jobs wait for provider {name!r}, which is not configured"
            fix = f"add {name!r} to {PREFIX}PROVIDERS and restart; the jobs continue automatically"
            findings.append(Finding("providers", "wrong", detail, fix))
    for name in state.paused:
        detail = f"an operator paused {name!r}; its messages wait"
        findings.append(Finding("providers", "warning", detail, f"`posthaste providers resume {name}`"))
    return [*findings, _relay(state)]


def _relay(state: compatibility.Look) -> Finding:
    if not state.relays:
        return Finding("relay", "wrong", "no relay is running", "`posthaste relay`, or `posthaste up`")
    if state.overdue:
        detail = f"{state.overdue} outbox rows are overdue by a minute"
        return Finding("relay", "warning", detail, "read the relay's log; can it reach RabbitMQ?")
    return Finding("relay", "ok", "running, no row is overdue")


async def _rabbitmq(settings: Settings) -> list[Finding]:
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
    unused = [] if settings.callback_secrets else [CALLBACKS.name]
    return [Finding("rabbitmq", "ok", address), *topology, *_consumers(states, unused)]


def _misfit(state: QueueState) -> Finding:
    if state.problem == "missing":
        fix = "start any process of the service: each declares all queues"
        return Finding("topology", "wrong", f"queue {state.name} is missing", fix)
    return Finding(
        "topology",
        "wrong",
        f"queue {state.name} exists with other arguments than this release declares (406): {state.problem}",
        f"delete it in the management UI (ours are quorum queues with x-delivery-limit {DELIVERY_LIMIT}); any process declares "
        "it again, and `posthaste rebuild` publishes its jobs",
    )


def _consumers(states: list[QueueState], unused: list[str]) -> list[Finding]:
    """Check that each work queue has a consumer. `unused`: queues that need none with these settings unless they hold jobs."""
    if all(state.problem for state in states):
        return []
    idle = [state for state in states if not state.problem and not state.consumers and not state.logical.endswith(".dead")]
    fix = f"set {PREFIX}CALLBACK_SECRETS (`posthaste callbacks secret` makes one) and restart the workers"
    unsigned = [
        Finding("callbacks", "wrong", f"{state.ready} wait in {state.name}, and no secret is set to sign them", fix)
        for state in idle
        if state.logical in unused and state.ready
    ]
    idle = [state for state in idle if state.logical not in unused]
    if not idle:
        return [Finding("workers", "ok", "every work queue has a consumer"), *unsigned]
    names = ", ".join(f"{state.name} ({state.ready} ready)" for state in idle)
    fix = "`posthaste consume`, or `posthaste up`; none is needed while its provider is paused or its breaker is open"
    return [Finding("workers", "wrong", f"no worker consumes {names}", fix), *unsigned]


async def _redis(settings: Settings) -> list[Finding]:
    address = _without_password(settings.redis_url)
    cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
    try:
        await cache.ping()
    except CacheDown as error:
        fix = f"`make services` starts Redis; or set {PREFIX}REDIS_URL. Until then statuses come from Postgres"
        return [Finding("redis", "wrong", f"{address}: {error}", fix)]
    finally:
        await cache.close()
    return [Finding("redis", "ok", address)]


def _providers(settings: Settings) -> list[Finding]:
    """Check that each provider accepts connections. Settings that were read have leases and timeouts that fit."""
    if not settings.providers:
        return [Finding("providers", "wrong", "no provider is configured", f"set {PREFIX}PROVIDERS; see .env.example")]
    return [_reachable(name, provider.url) for name, provider in settings.providers.items()]


def _reachable(name: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return Finding(f"provider {name}", "ok", f"{parts.hostname}:{port} accepts connections")
    except OSError as error:
        fix = f"start it, or correct its url in {PREFIX}PROVIDERS; until then its messages are retried"
        return Finding(f"provider {name}", "warning", f"{parts.hostname}:{port}: {error.strerror or error}", fix)


def _api(settings: Settings) -> Finding:
    address = f"{settings.host}:{settings.port}"
    started = time.monotonic()
    try:
        if Client(f"http://{address}", timeout_seconds=2).live():
            return Finding("api", "ok", f"answers on {address} ({1000 * (time.monotonic() - started):.1f} ms)")
    except ApiError as error:
        return Finding("api", "wrong", str(error), "`posthaste api`, or `posthaste up`; restart an API that hangs")
    return Finding("api", "wrong", f"another service answers on {address}", f"set {PREFIX}PORT")


def _without_password(url: str) -> str:
    """The URL without user, password and query. Its hosts stay as written: libpq's URLs may name several."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
