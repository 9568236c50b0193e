"""The service of one run: two APIs, three consumers, two relays as real processes, under supervision."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
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
from infra.postgres import schema
from tests.chaos import audit_triggers
from tests.chaos.crash_points import become
from tests.chaos.evidence import Callback, Request
from tests.chaos.servers import Servers
from tests.support.forked import FORKS
from tests.support.receiver import SECRET, Receiver, serving_on_loopback
from tests.support.services import with_path
from tests.support.stack import free_port

NAMESPACE = "chaos"
LEASE, MARGIN, TIMEOUT, STATUS_TTL, ATTEMPTS, SWEEP_AFTER = 5.0, 0.5, 2.0, 2.0, 8, 12.0
CALLBACK_ATTEMPTS = 200
RESTART_SECONDS = 0.3
SKEWED = {"consumer-1": 3600.0, "api-1": -3600.0, "relay-1": 3600.0}  # seconds of error of a process' clock
SETTINGS = {
    "NAMESPACE": NAMESPACE,
    "ACCEPT_TIMEOUT_SECONDS": "2",
    "LEASE_SECONDS": f"{LEASE:g}",
    "LEASE_MARGIN_SECONDS": f"{MARGIN:g}",
    # Faults cost jobs dozens of leases.
    "LOST_LEASES": "1000",
    "SHUTDOWN_GRACE_SECONDS": "1",
    "OUTBOX_GRACE_SECONDS": "1",
    "RELAY_POLL_SECONDS": "0.1",
    "STATUS_TTL_SECONDS": f"{STATUS_TTL:g}",
    "SWEEP_AFTER_SECONDS": f"{SWEEP_AFTER:g}",
    "WATCHDOG_SECONDS": "10",
    "LOG_FORMAT": "json",
    "CALLBACK_SECRETS": json.dumps([SECRET]),
    "CALLBACK_ALLOW": '["127.0.0.0/8"]',
    "CALLBACK_TIMEOUT_SECONDS": "1.5",
    # Faults of the receiver last longer in sum than the default schedule of retries.
    "CALLBACK_RETRY_SECONDS": json.dumps([0.2, 0.5] + [1.0] * (CALLBACK_ATTEMPTS - 3)),
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
class Process:
    """One process of the service; the supervisor restarts it when it exits."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    skew: float
    bug: str | None
    forked: ForkServerProcess | None = None
    exit_expected: bool = False

    @property
    def role(self) -> str:
        return self.name.partition("-")[0]

    @property
    def _order(self) -> Path:
        return self.log.with_suffix(".crash")

    def start(self) -> None:
        self.exit_expected = self._order.exists()
        arguments = (self.command, self.environment, str(self.log), self.skew, self.bug)
        self.forked = FORKS.Process(target=become, args=arguments, daemon=True)
        self.forked.start()

    def is_alive(self) -> bool:
        return self.forked is not None and self.forked.is_alive()

    def is_restarted(self, before: ForkServerProcess | None) -> bool:
        return self.forked is not before and self.is_alive()

    def send(self, number: signal.Signals) -> None:
        if self.forked is not None and self.forked.pid and self.is_alive():
            self.exit_expected = self.exit_expected or number in (signal.SIGKILL, signal.SIGTERM)
            os.kill(self.forked.pid, number)

    def crash_at(self, point: str) -> Path:
        """Let the process die the next time it reaches this point."""
        self.exit_expected = True
        self._order.write_text(point)
        return self._order

    async def wait(self, seconds: float = 20) -> None:
        assert self.forked is not None
        await asyncio.to_thread(self.forked.join, seconds)

    def end(self) -> None:
        if self.is_alive():
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)


@dataclass
class Installation:
    """A running service with everything that faults act on."""

    servers: Servers
    database: str
    processes: dict[str, Process]
    provider: Provider
    receiver: CallbackReceiver
    ports: list[int]
    session: aiohttp.ClientSession
    unexpected_exits: list[str] = field(default_factory=list)

    def processes_of(self, role: str) -> list[Process]:
        return [process for process in self.processes.values() if process.role == role]

    async def supervise(self) -> None:
        """Restart processes that exit, until cancelled; record unexpected exits."""
        while True:
            for process in self.processes.values():
                if not process.is_alive():
                    code = process.forked.exitcode if process.forked else None
                    if not process.exit_expected:
                        self.unexpected_exits.append(f"{process.name} ended with {code}: {_log_tail(process.log)}")
                    await asyncio.sleep(RESTART_SECONDS)
                    process.start()
            await asyncio.sleep(0.1)

    async def until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        for port in self.ports:
            while not await self._answers(port):
                assert time.monotonic() < deadline, "\n".join(_log_tail(p.log) for p in self.processes.values())
                await asyncio.sleep(0.1)

    async def _answers(self, port: int) -> bool:
        try:
            async with self.session.get(f"http://127.0.0.1:{port}/health/ready") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def start_installation(
    servers: Servers, folder: Path, rng: random.Random, bug: str | None
) -> AsyncIterator[Installation]:
    """Start the service, wait until it is ready, and kill it afterwards."""
    database = schema.create_database(servers.postgres.url, "chaos")
    schema.migrate(database, NAMESPACE)
    audit_triggers.install(database)
    proxied_database = with_path(servers.postgres.proxy_url, "chaos")
    provider = Provider(free_port(), rng)
    ports = [free_port(), free_port()]
    environment = _environment(servers, proxied_database, provider.port)
    commands = {f"api-{n}": ["api"] for n in (1, 2)}
    commands |= {f"consumer-{n}": ["consumers", "messages", "reports", "callbacks"] for n in (1, 2, 3)}
    commands |= {f"relay-{n}": ["consumers", "relay"] for n in (1, 2)}
    processes = {
        name: Process(name, command, dict(environment), folder / f"{name}.log", SKEWED.get(name, 0.0), bug)
        for name, command in commands.items()
    }
    for name, port in zip(("api-1", "api-2"), ports, strict=True):
        processes[name].environment["POSTHASTE_PORT"] = str(port)
    stop = asyncio.Event()
    receiver = CallbackReceiver(rng)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session, serving_on_loopback(receiver):
        installation = Installation(servers, database, processes, provider, receiver, ports, session)
        serving = asyncio.create_task(provider.serve(stop))
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
            stop.set()
            await asyncio.gather(serving, *(server.proxy.close() for server in servers.all()))


def _environment(servers: Servers, database: str, provider_port: int) -> dict[str, str]:
    sandbox: dict[str, Any] = {
        "url": f"http://127.0.0.1:{provider_port}/message",
        "timeout_seconds": TIMEOUT,
        "concurrency": 16,
    }
    sandbox["retry"] = {"attempts": ATTEMPTS, "base_seconds": 0.2, "cap_seconds": 1.0}
    urls = {"DATABASE_URL": database, "AMQP_URL": servers.rabbitmq.proxy_url, "REDIS_URL": servers.redis.proxy_url}
    settings = {**SETTINGS, **urls, "PROVIDERS": json.dumps({"sandbox": sandbox})}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("POSTHASTE_")}
    return plain | {f"POSTHASTE_{name}": value for name, value in settings.items()}


def _log_tail(log: Path, lines: int = 3) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
