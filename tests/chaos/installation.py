"""The service of one run: two APIs, three consumers, two relays as real processes, restarted when they die."""

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
from tests.chaos import audit
from tests.chaos.evidence import Callback, Request
from tests.chaos.fragile import become
from tests.chaos.servers import Servers
from tests.support.forked import FORKS
from tests.support.receiver import SECRET, Receiver, serving_on_loopback
from tests.support.services import with_path
from tests.support.stack import free_port

NAMESPACE = "chaos"
LEASE, MARGIN, TIMEOUT, STATUS_TTL, ATTEMPTS, SWEEP_AFTER = 5.0, 0.5, 2.0, 2.0, 8, 12.0
CALLBACK_ATTEMPTS = 200
RESTART_SECONDS = 0.3
SKEWED = {"consumer-1": 3600.0, "api-1": -3600.0, "relay-1": 3600.0}  # seconds by which a process' clock is wrong
SETTINGS = {
    "NAMESPACE": NAMESPACE,
    "ACCEPT_TIMEOUT_SECONDS": "2",
    "LEASE_SECONDS": f"{LEASE:g}",
    "LEASE_MARGIN_SECONDS": f"{MARGIN:g}",
    # Leases are lost by the dozen here, and none of them is a job's own fault.
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
    # As often as it takes: faults follow one another for longer than a client's receiver would be ill.
    "CALLBACK_RETRY_SECONDS": json.dumps([0.2, 0.5] + [1.0] * (CALLBACK_ATTEMPTS - 3)),
}


class Listener(Receiver):
    """The receiver of callbacks: `fail`, `hang` and `reset` are shares of what it gets."""

    def __init__(self, draw: random.Random):
        super().__init__()
        self.faults = Faults()
        self.noted: list[Callback] = []
        self._draw = draw

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body, headers = await request.read(), {name.lower(): value for name, value in request.headers.items()}
        try:
            event, verified = Webhook(SECRET).verify(body, headers), True
        except WebhookVerificationError:
            event, verified = json.loads(body), False
        said = event["data"]
        noted = Callback(headers.get("webhook-id", ""), said["id"], said["sequence"], event["type"], verified)
        self.noted.append(noted)
        drawn, faults = self._draw.random(), self.faults
        if drawn < faults.hang:
            noted.answer = "hang"
            await asyncio.sleep(3600)
        if drawn < faults.hang + faults.reset and request.transport is not None:
            noted.answer = "reset"
            request.transport.abort()
            return web.Response()
        noted.answer = 500 if drawn < faults.hang + faults.reset + faults.fail else 204
        return web.Response(status=int(noted.answer))


class Provider(Sandbox):
    """The sandbox, which rejects what is sent to `+rejected`, and notes when each raw request came and was answered."""

    def __init__(self, port: int, draw: random.Random):
        super().__init__("127.0.0.1", port, Faults(), draw, on_request=self._note)
        self._noted: list[tuple[Request, dict[str, Any]]] = []

    def _note(self, entry: dict[str, Any]) -> None:
        self._noted.append((_PRESENT.get(), entry))

    async def message(self, request: web.Request) -> web.StreamResponse:
        noted = Request(request.headers.get("Idempotency-Key", ""), time.time())
        _PRESENT.set(noted)
        if (await request.json())["destination"] == "+rejected":
            self._note({"answer": 400})
            return web.Response(status=400)
        response = await super().message(request)
        noted.answered = time.time()
        return response

    def noted(self) -> list[Request]:
        """Every raw request so far, with what it was answered."""
        for request, entry in self._noted:
            request.answer = entry["answer"]
        return [request for request, _ in self._noted]


_PRESENT: ContextVar[Request] = ContextVar("the request that is being answered")


@dataclass
class Process:
    """One of our processes; whoever supervises restarts it when it dies."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    skew: float
    bug: str | None
    forked: ForkServerProcess | None = None
    killed: bool = False

    @property
    def role(self) -> str:
        return self.name.partition("-")[0]

    @property
    def _order(self) -> Path:
        return self.log.with_suffix(".crash")

    def start(self) -> None:
        self.killed = self._order.exists()
        arguments = (self.command, self.environment, str(self.log), self.skew, self.bug)
        self.forked = FORKS.Process(target=become, args=arguments, daemon=True)
        self.forked.start()

    def alive(self) -> bool:
        return self.forked is not None and self.forked.is_alive()

    def restarted(self, before: ForkServerProcess | None) -> bool:
        return self.forked is not before and self.alive()

    def send(self, number: signal.Signals) -> None:
        if self.forked is not None and self.forked.pid and self.alive():
            self.killed = self.killed or number in (signal.SIGKILL, signal.SIGTERM)
            os.kill(self.forked.pid, number)

    def arm(self, point: str) -> Path:
        """Let it die when it next comes to this point."""
        self.killed = True
        self._order.write_text(point)
        return self._order

    async def gone(self, seconds: float = 20) -> None:
        assert self.forked is not None
        await asyncio.to_thread(self.forked.join, seconds)

    def end(self) -> None:
        if self.alive():
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)


@dataclass
class Installation:
    """A running service, and everything that can be done to it."""

    servers: Servers
    database: str
    processes: dict[str, Process]
    provider: Provider
    listener: Listener
    ports: list[int]
    session: aiohttp.ClientSession
    ended_by_themselves: list[str] = field(default_factory=list)

    def of(self, role: str) -> list[Process]:
        return [process for process in self.processes.values() if process.role == role]

    async def supervise(self) -> None:
        """Restart what dies, until cancelled; note what had not been told to."""
        while True:
            for process in self.processes.values():
                if not process.alive():
                    code = process.forked.exitcode if process.forked else None
                    if not process.killed:
                        self.ended_by_themselves.append(f"{process.name} ended with {code}: {_last_words(process.log)}")
                    await asyncio.sleep(RESTART_SECONDS)
                    process.start()
            await asyncio.sleep(0.1)

    async def until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        for port in self.ports:
            while not await self._answers(port):
                assert time.monotonic() < deadline, "\n".join(_last_words(p.log) for p in self.processes.values())
                await asyncio.sleep(0.1)

    async def _answers(self, port: int) -> bool:
        try:
            async with self.session.get(f"http://127.0.0.1:{port}/health/ready") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def installed(servers: Servers, folder: Path, draw: random.Random, bug: str | None) -> AsyncIterator[Installation]:
    """A service that is ready, with the load's timeouts; all of it is killed afterwards."""
    database = schema.create_database(servers.postgres.url, "chaos")
    schema.migrate(database, NAMESPACE)
    audit.install(database)
    through = with_path(servers.postgres.through, "chaos")
    provider = Provider(free_port(), draw)
    ports = [free_port(), free_port()]
    environment = _environment(servers, through, provider.port)
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
    listener = Listener(draw)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session, serving_on_loopback(listener):
        installation = Installation(servers, database, processes, provider, listener, ports, session)
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
    urls = {"DATABASE_URL": database, "AMQP_URL": servers.rabbitmq.through, "REDIS_URL": servers.redis.through}
    settings = {**SETTINGS, **urls, "PROVIDERS": json.dumps({"sandbox": sandbox})}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("POSTHASTE_")}
    return plain | {f"POSTHASTE_{name}": value for name, value in settings.items()}


def _last_words(log: Path, lines: int = 3) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
