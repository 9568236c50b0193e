"""`posthaste doctor`: looks at everything the service depends on, names what is wrong, and the command that mends it."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

from cli.client import ApiError, Client
from infra.postgres import checks, schema
from infra.postgres.errors import NOT_PERMITTED, PostgresError
from infra.postgres.pool import DatabasePool
from infra.rabbitmq.inspection import BrokerDown, QueueState, inspect
from infra.rabbitmq.topology import DELIVERY_LIMIT, describe
from infra.redis.status_cache import CacheDown, StatusCache
from jobs.model import CALLBACKS
from service.settings import PREFIX, Settings

CALL_SECONDS = 5.0
CLOCK_SECONDS = 2.0  # of skew that is worth a word; nothing we do depends on equal clocks

_SECRETS = f"set {PREFIX}CALLBACK_SECRETS (`posthaste callbacks secret` makes one) and restart the workers"

Verdict = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: how it is, in a sentence, and what mends it."""

    subject: str
    verdict: Verdict
    detail: str
    mend: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Everything, in the order in which it is best mended. Changes nothing."""
    pool = DatabasePool(settings.database_url, name="doctor", threads=1)
    try:
        looks: list[Callable[[], Awaitable[list[Finding]]]] = [
            lambda: _postgres(settings, pool),
            lambda: _rabbitmq(settings),
            lambda: _redis(settings),
        ]
        found = [finding for look in looks for finding in await look()]
    finally:
        pool.close()
    return _providers(settings) + found + [_api(settings)]


def exit_code(findings: list[Finding]) -> int:
    """0 healthy, 1 something is wrong. A warning is worth reading and keeps 0."""
    return int(any(finding.verdict == "wrong" for finding in findings))


def as_json(findings: list[Finding]) -> dict[str, object]:
    return {"healthy": exit_code(findings) == 0, "findings": [asdict(finding) for finding in findings]}


async def _postgres(settings: Settings, pool: DatabasePool) -> list[Finding]:
    where = _without_password(settings.database_url)
    try:
        current = await schema.check(pool, settings.namespace, CALL_SECONDS)
        seen = await checks.look(pool, CALL_SECONDS)
    except PostgresError as error:
        mend = f"`make services` starts one; or set {PREFIX}DATABASE_URL to one that runs"
        if error.sqlstate == NOT_PERMITTED:
            mend = f"`posthaste migrate`, with the owner's {PREFIX}MIGRATION_DATABASE_URL: it grants what running needs"
        return [Finding("postgres", "wrong", f"{where}: {error}", mend)]
    except schema.SchemaTooOld as error:
        return [Finding("schema", "wrong", str(error), "`posthaste migrate`")]
    except schema.ForeignNamespace as error:
        return [
            Finding(
                "schema", "wrong", str(error), f"set {PREFIX}NAMESPACE or {PREFIX}DATABASE_URL so that they belong together"
            )
        ]
    revision = schema.code_revision()
    fit = Finding("schema", "ok", f"at revision {revision}")
    newer = Finding(
        "schema", "warning", f"newer than this code's {revision}", "upgrade this release when the migration is done"
    )
    fitting = fit if current else newer
    return [Finding("postgres", "ok", where), fitting, *_indexes(seen), _clock(seen), *_work(settings, seen)]


def _indexes(seen: checks.Look) -> list[Finding]:
    mend = "`posthaste migrate` builds it again"
    return [
        Finding("indexes", "wrong", f"{name} is not valid: statements that need it scan its table", mend)
        for name in seen.invalid_indexes
    ]


def _clock(seen: checks.Look) -> Finding:
    skew = abs((datetime.now(UTC) - seen.clock).total_seconds())
    if skew > CLOCK_SECONDS:
        mend = (
            "set the clock of this machine or of Postgres' (NTP); delays and leases go by Postgres' and are right all the same"
        )
        return Finding("clock", "warning", f"{skew:.1f} s apart from Postgres' clock", mend)
    return Finding("clock", "ok", f"within {CLOCK_SECONDS:g} s of Postgres'")


def _work(settings: Settings, seen: checks.Look) -> list[Finding]:
    findings = [
        Finding(
            "providers",
            "wrong",
            f"{jobs} jobs wait for provider {name!r}, which is not configured",
            f"add {name!r} to {PREFIX}PROVIDERS and restart; they go on by themselves",
        )
        for name, jobs in seen.waiting.items()
        if name not in settings.providers
    ]
    findings += [
        Finding(
            "providers",
            "warning",
            f"{name!r} is paused by an operator; its messages wait",
            f"`posthaste providers resume {name}`",
        )
        for name in seen.paused
    ]
    if not seen.relays:
        findings.append(Finding("relay", "wrong", "none is running", "`posthaste relay`, or `posthaste up`"))
    elif seen.overdue:
        findings.append(
            Finding(
                "relay",
                "warning",
                f"{seen.overdue} outbox rows are overdue by a minute",
                "see its log; is RabbitMQ reachable from it?",
            )
        )
    else:
        findings.append(Finding("relay", "ok", "running, nothing is overdue"))
    return findings


async def _rabbitmq(settings: Settings) -> list[Finding]:
    where = _without_password(settings.amqp_url)
    try:
        states = await inspect(settings.amqp_url, describe(settings.namespace, settings.providers))
    except BrokerDown as error:
        mend = f"`make services` starts one; or set {PREFIX}AMQP_URL to one that runs"
        if "ACCESS_REFUSED" in str(error):
            mend = 'correct the user or password; docs/operations.md, "Roles and users", says how the user is made'
        return [Finding("rabbitmq", "wrong", f"{where}: {error}", mend)]
    misfits = [_misfit(state) for state in states if state.problem]
    fit = Finding("topology", "ok", f"{len(states)} queues fit")
    unused = [] if settings.callback_secrets else [CALLBACKS.name]
    return [Finding("rabbitmq", "ok", where), *(misfits or [fit]), *_consumers(states, unused)]


def _misfit(state: QueueState) -> Finding:
    if state.problem == "missing":
        return Finding(
            "topology", "wrong", f"queue {state.name} is not there", "start any process of ours: each declares all queues"
        )
    return Finding(
        "topology",
        "wrong",
        f"queue {state.name} exists with other arguments than this release declares (406): {state.problem}",
        f"delete it in the management UI (ours are quorum queues with x-delivery-limit {DELIVERY_LIMIT}); it comes back by "
        "itself, and `posthaste rebuild` publishes its jobs again",
    )


def _consumers(states: list[QueueState], unused: list[str]) -> list[Finding]:
    """`unused`: queues that no worker consumes with these settings; what lies in one all the same waits for others."""
    if all(state.problem for state in states):
        return []
    idle = [state for state in states if not state.problem and not state.consumers and not state.logical.endswith(".dead")]
    off = [
        Finding("callbacks", "wrong", f"{s.ready} wait in {s.name}, and there is nothing to sign them with", _SECRETS)
        for s in idle
        if s.logical in unused and s.ready
    ]
    idle = [state for state in idle if state.logical not in unused]
    if not idle:
        return [Finding("workers", "ok", "every work queue has a consumer"), *off]
    names = ", ".join(f"{state.name} ({state.ready} ready)" for state in idle)
    mend = "`posthaste consume`, or `posthaste up`; unless its provider is paused, or left alone as it does not answer"
    return [Finding("workers", "wrong", f"nobody consumes {names}", mend), *off]


async def _redis(settings: Settings) -> list[Finding]:
    where = _without_password(settings.redis_url)
    cache = StatusCache(settings.redis_url, namespace=settings.namespace, ttl_seconds=settings.status_ttl_seconds)
    try:
        await cache.ping()
    except CacheDown as error:
        mend = f"`make services` starts one; or set {PREFIX}REDIS_URL. Until then statuses come from Postgres"
        return [Finding("redis", "wrong", f"{where}: {error}", mend)]
    finally:
        await cache.close()
    return [Finding("redis", "ok", where)]


def _providers(settings: Settings) -> list[Finding]:
    """The settings have been read, so leases and timeouts fit; is anybody there?"""
    if not settings.providers:
        return [Finding("providers", "wrong", "none is configured", f"set {PREFIX}PROVIDERS; .env.example shows how")]
    return [_reachable(name, provider.url) for name, provider in settings.providers.items()]


def _reachable(name: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return Finding(f"provider {name}", "ok", f"{parts.hostname}:{port} takes connections")
    except OSError as error:
        mend = f"start it, or correct its url in {PREFIX}PROVIDERS; its messages wait and are tried again"
        return Finding(f"provider {name}", "warning", f"{parts.hostname}:{port}: {error.strerror or error}", mend)


def _api(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    started = time.monotonic()
    try:
        if Client(f"http://{where}", timeout_seconds=2).live():
            return Finding("api", "ok", f"answers on {where} ({1000 * (time.monotonic() - started):.1f} ms)")
    except ApiError as error:
        return Finding("api", "wrong", str(error), "`posthaste api`, or `posthaste up`; restart one that hangs")
    return Finding("api", "wrong", f"{where} is somebody else", f"set {PREFIX}PORT")


def _without_password(url: str) -> str:
    """Without its query, too, which may hold one. The hosts as they are written: libpq's URLs may name several."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def run(settings: Settings) -> list[Finding]:
    return asyncio.run(examine(settings))
