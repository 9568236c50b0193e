"""The service of one run: two APIs, three consumers, two relays as real processes, under supervision."""

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from cli.sandbox import Faults, Sandbox
from dev.databases import create_database
from dev.ports import free_port
from dev.stack import as_variables, environment_without_settings, is_ready, serving
from infra.postgres import migration
from tests.chaos import audit_triggers
from tests.chaos.crash_points import become
from tests.chaos.evidence import Callback, Request
from tests.chaos.servers import Servers
from tests.support.processes import Process
from tests.support.receiver import SECRET, Receiver, serving_on_loopback
from tests.support.services import with_path

NAMESPACE = "chaos"
LEASE, MARGIN, TIMEOUT, STATUS_TTL, ATTEMPTS, SWEEP_AFTER = 5.0, 0.5, 2.0, 2.0, 8, 12.0
CALLBACK_ATTEMPTS = 200
RESTART_SECONDS = 0.3
SKEW_SECONDS = {"consumer-1": 3600.0, "api-1": -3600.0, "relay-1": 3600.0}  # seconds of error of a process' clock
SETTINGS = {
    "namespace": NAMESPACE,
    "accept_timeout_seconds": "2",
    "lease_seconds": f"{LEASE:g}",
    "lease_margin_seconds": f"{MARGIN:g}",
    # Faults cost jobs dozens of leases.
    "lost_leases": "1000",
    "shutdown_grace_seconds": "1",
    "outbox_grace_seconds": "1",
    "relay_poll_seconds": "0.1",
    "status_ttl_seconds": f"{STATUS_TTL:g}",
    "sweep_after_seconds": f"{SWEEP_AFTER:g}",
    "watchdog_seconds": "10",
    "log_format": "json",
    "callback_secrets": json.dumps([SECRET]),
    "callback_allow": '["127.0.0.0/8"]',
    "callback_timeout_seconds": "1.5",
    # Faults of the receiver last longer in sum than the default schedule of retries.
    "callback_retry_seconds": json.dumps([0.2, 0.5] + [1.0] * (CALLBACK_ATTEMPTS - 3)),
}


class CallbackReceiver(Receiver):
    """The callback receiver: `fail`, `hang` and `reset` are shares of its requests."""

    def __init__(self, rng: random.Random):
        super().__init__()
        self.faults = Faults()
        self.requests: list[Callback] = []
        self._rng = rng

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body, headers = await request.read(), {name.lower(): value for name, value in request.headers.items()}
        try:
            event, verified = Webhook(SECRET).verify(body, headers), True
        except WebhookVerificationError:
            event, verified = json.loads(body), False
        data = event["data"]
        callback = Callback(headers.get("webhook-id", ""), data["id"], data["sequence"], event["type"], verified)
        self.requests.append(callback)
        roll, faults = self._rng.random(), self.faults
        if roll < faults.hang:
            callback.answer = "hang"
            await asyncio.sleep(3600)
        if roll < faults.hang + faults.reset and request.transport is not None:
            callback.answer = "reset"
            request.transport.abort()
            return web.Response()
        callback.answer = 500 if roll < faults.hang + faults.reset + faults.fail else 204
        return web.Response(status=int(callback.answer))


class Provider(Sandbox):
    """The sandbox. It rejects messages to `+rejected`, and records every raw request with its instants."""

    def __init__(self, port: int, rng: random.Random):
        super().__init__("127.0.0.1", port, Faults(), rng, on_request=self._record)
        self._log: list[tuple[Request, dict[str, Any]]] = []

    def _record(self, entry: dict[str, Any]) -> None:
        self._log.append((_CURRENT.get(), entry))

    async def message(self, request: web.Request) -> web.StreamResponse:
        current = Request(request.headers.get("Idempotency-Key", ""), time.time())
        _CURRENT.set(current)
        if (await request.json())["destination"] == "+rejected":
            self._record({"answer": 400})
            return web.Response(status=400)
        response = await super().message(request)
        current.answered_at = time.time()
        return response

    def requests(self) -> list[Request]:
        """Every raw request so far, with its answer."""
        for request, entry in self._log:
            request.answer = entry["answer"]
        return [request for request, _ in self._log]


_CURRENT: ContextVar[Request] = ContextVar("current_request")


@dataclass
class SupervisedProcess(Process):
    """A process with a name, a clock error, perhaps a planted bug, and crash points; the supervisor restarts it."""

    name: str = ""
    skew_seconds: float = 0.0
    bug: str | None = None
    exit_expected: bool = False

    @property
    def role(self) -> str:
        return self.name.partition("-")[0]

    @property
    def _crash_file(self) -> Path:
        return self.log.with_suffix(".crash")

    def start(self) -> None:
        self.exit_expected = self._crash_file.exists()
        super().start()

    def entry_point(self) -> tuple[Callable[..., None], tuple[object, ...]]:
        return become, (self.command, self.environment, str(self.log), self.skew_seconds, self.bug)

    def is_restarted(self, before: ForkServerProcess | None) -> bool:
        return self.forked is not before and self.is_alive()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is being restarted."""
        if self.is_alive():
            self.exit_expected = self.exit_expected or number in (signal.SIGKILL, signal.SIGTERM)
            super().signal(number)

    def crash_at(self, point: str) -> Path:
        """Let the process die the next time it reaches this point."""
        self.exit_expected = True
        self._crash_file.write_text(point)
        return self._crash_file

    async def until_exit(self, seconds: float = 20) -> None:
        """Wait for the exit; a process that still runs is no error."""
        assert self.forked is not None
        await asyncio.to_thread(self.forked.join, seconds)


@dataclass
class Installation:
    """A running service with everything that faults act on."""

    servers: Servers
    database: str
    processes: dict[str, SupervisedProcess]
    provider: Provider
    receiver: CallbackReceiver
    ports: list[int]
    session: aiohttp.ClientSession
    unexpected_exits: list[str] = field(default_factory=list)

    def processes_of(self, role: str) -> list[SupervisedProcess]:
        return [process for process in self.processes.values() if process.role == role]

    async def supervise(self) -> None:
        """Restart processes that exit, until cancelled; record unexpected exits."""
        while True:
            for process in self.processes.values():
                if not process.is_alive():
                    code = process.forked.exitcode if process.forked else None
                    if not process.exit_expected:
                        self.unexpected_exits.append(f"{process.name} ended with {code}: {_log_tail(process)}")
                    await asyncio.sleep(RESTART_SECONDS)
                    process.start()
            await asyncio.sleep(0.1)

    async def until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        for port in self.ports:
            while not await is_ready(self.session, f"http://127.0.0.1:{port}"):
                assert time.monotonic() < deadline, "\n".join(_log_tail(p) for p in self.processes.values())
                await asyncio.sleep(0.1)


@asynccontextmanager
async def start_installation(
    servers: Servers, folder: Path, rng: random.Random, bug: str | None
) -> AsyncIterator[Installation]:
    """Start the service, wait until it is ready, and kill it afterwards."""
    database = create_database(servers.postgres.url, "chaos")
    migration.migrate(database, NAMESPACE)
    audit_triggers.install(database)
    proxied_database = with_path(servers.postgres.proxy_url, "chaos")
    provider = Provider(free_port(), rng)
    ports = [free_port(), free_port()]
    environment = _environment(servers, proxied_database, provider.port)
    commands = {f"api-{n}": ["api"] for n in (1, 2)}
    commands |= {f"consumer-{n}": ["consumers", "messages", "reports", "callbacks"] for n in (1, 2, 3)}
    commands |= {f"relay-{n}": ["consumers", "relay"] for n in (1, 2)}
    processes = {
        name: SupervisedProcess(
            command, dict(environment), folder / f"{name}.log", None, name, SKEW_SECONDS.get(name, 0.0), bug
        )
        for name, command in commands.items()
    }
    for name, port in zip(("api-1", "api-2"), ports, strict=True):
        processes[name].environment["POSTHASTE_PORT"] = str(port)
    receiver = CallbackReceiver(rng)
    client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
    async with client as session, serving_on_loopback(receiver), serving(provider):
        installation = Installation(servers, database, processes, provider, receiver, ports, session)
        for process in processes.values():
            process.start()
        supervising = asyncio.create_task(installation.supervise())
        try:
            await installation.until_ready()
            yield installation
        finally:
            supervising.cancel()
            for process in processes.values():
                process.end()
            await asyncio.gather(*(server.proxy.close() for server in servers.all()))


def _environment(servers: Servers, database: str, provider_port: int) -> dict[str, str]:
    sandbox: dict[str, Any] = {
        "url": f"http://127.0.0.1:{provider_port}/message",
        "timeout_seconds": TIMEOUT,
        "concurrency": 16,
    }
    sandbox["retry"] = {"attempts": ATTEMPTS, "base_seconds": 0.2, "cap_seconds": 1.0}
    urls = {"database_url": database, "amqp_url": servers.rabbitmq.proxy_url, "redis_url": servers.redis.proxy_url}
    settings = {**SETTINGS, **urls, "providers": json.dumps({"sandbox": sandbox})}
    return environment_without_settings() | as_variables(settings)


def _log_tail(process: Process, lines: int = 3) -> str:
    return " | ".join(process.output().splitlines()[-lines:]) or "(no log)"
