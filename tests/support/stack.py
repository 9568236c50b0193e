"""The whole service: real processes on free ports, with a proxy in front of each dependency."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from cli.sandbox import Sandbox
from dev.ports import free_port
from dev.stack import as_variables, environment_without_settings, is_ready, local_sandbox, serving
from infra.rabbitmq.inspection import inspect
from infra.rabbitmq.topology import describe
from tests.support.processes import Process, run_command
from tests.support.proxy import Proxy
from tests.support.services import Services, proxied, sql
from tests.support.waiting import eventually

ENDS = {"sent", "failed"}
PROCESSES = {"worker": ("consumers", "messages"), "relay": ("consumers", "relay"), "api": ("api",)}
MESSAGE = {"destination": "+1", "body": "hello"}
REPORTS = "/api/2.0/report/posts"


@dataclass
class Stack:
    """A running service with the processes `api`, `worker` and `relay`; `proxies` break its connections."""

    services: Services
    database: str
    namespace: str
    folder: Path
    proxies: dict[str, Proxy]
    environment: dict[str, str]
    port: int
    sandbox: Sandbox
    session: aiohttp.ClientSession
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def sandbox_port(self) -> int:
        return self.sandbox.port

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str, *command: str, **settings: str) -> Process:
        process = Process(list(command), self.environment | as_variables(settings), self.folder / f"{name}.log")
        process.start()
        self.processes[name] = process
        return process

    async def post(self, destination: str = "+1", body: str = "hello", **fields: Any) -> tuple[int, dict[str, Any]]:
        payload = {"destination": destination, "body": body, **fields}
        async with self.session.post(f"{self.base}/messages", json=payload) as response:
            return response.status, await response.json()

    async def submit(self, destination: str = "+1", body: str = "hello", **fields: Any) -> str:
        status, answer = await self.post(destination, body, **fields)
        assert status == 202, answer
        return str(answer["id"])

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        async with self.session.get(self.base + path) as response:
            return response.status, await response.json()

    async def status(self, id_: str) -> str:
        code, answer = await self.get(f"/message/{id_}/status")
        assert code == 200, answer
        return str(answer["status"])

    async def becomes(self, id_: str, *statuses: str, seconds: float = 60) -> str:
        return await eventually(lambda: self.status(id_), lambda status: status in statuses, seconds)

    async def record(self, id_: str) -> dict[str, Any]:
        code, answer = await self.get(f"/messages/{id_}")
        assert code == 200, answer
        return answer

    async def all_become(self, status: str, count: int, seconds: float = 180) -> None:
        await self.all_or(seconds, **{status: count})

    async def all_or(self, seconds: float = 180, /, **expected: int) -> None:
        """Wait until the ledger holds exactly these counts of jobs by status."""

        async def counts() -> dict[str, int]:
            return {str(name): int(str(n)) for name, n in self.rows("SELECT status, count(*) FROM jobs GROUP BY status")}

        await eventually(counts, lambda actual: actual == expected, seconds)

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement, bypassing the proxy."""
        return sql(self.database, statement)

    async def provider(self, path: str) -> Any:
        async with self.session.get(f"http://127.0.0.1:{self.sandbox_port}{path}") as response:
            return await response.json()

    async def faults(self, **fields: float) -> None:
        async with self.session.put(f"http://127.0.0.1:{self.sandbox_port}/faults", json=fields) as response:
            assert response.status == 200, await response.text()

    async def until_ready(self) -> None:
        await eventually(lambda: is_ready(self.session, self.base), bool)

    async def until_all_up(self) -> None:
        """Wait until the API reports every service as up; then all exchanges and queues exist."""

        async def checks() -> set[str]:
            try:
                return set((await self.get("/health/ready"))[1]["checks"].values())
            except aiohttp.ClientConnectionError:
                return set()

        await eventually(checks, lambda states: states == {"up"}, poll=0.1)  # each asks every service of the starting API

    async def command(self, *arguments: str, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run the `posthaste` command with this stack's settings."""
        return await run_command(list(arguments), self.environment, self.folder, seconds)

    async def ready(self, queue: str) -> int:
        """The number of ready messages in a logical queue."""
        states = await inspect(self.services.amqp, describe(self.namespace, ["sandbox"]))
        return next(state.ready for state in states if state.logical == queue)

    async def timed_post(self) -> tuple[int, float]:
        started = time.monotonic()
        status, _ = await self.post()
        return status, time.monotonic() - started


# Tests of the 503 within a second use the default. All others tolerate a slow disk: commits on a busy machine took longer.
DEFAULT_PATIENCE = "0.8"
QUICK = {
    "accept_timeout_seconds": "10",
    "lease_seconds": "30",  # a busy machine must lose no lease; tests of lost leases have shorter ones
    "lease_margin_seconds": "0.5",
    "shutdown_grace_seconds": "1",
    "outbox_grace_seconds": "1",
    "relay_poll_seconds": "0.1",
    "status_ttl_seconds": "1",
    "rate_per_key": "1000000/second",  # no test on a fast machine may reach it
}


def provider_at(port: int) -> dict[str, Any]:
    """The settings of a sandbox as provider: enough attempts to outlast the faults of a test, even on a slow machine."""
    retry = {"attempts": 100, "base_seconds": 0.1, "cap_seconds": 0.5}
    return {"url": f"http://127.0.0.1:{port}/message", "timeout_seconds": 1.5, "concurrency": 16, "retry": retry}


def client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=50))


@asynccontextmanager
async def running(
    services: Services,
    database: str,
    namespace: str,
    folder: Path,
    *,
    provider: dict[str, Any] | None = None,
    others: dict[str, Any] | None = None,
    processes: dict[str, dict[str, str]] | None = None,
    **settings: str,
) -> AsyncIterator[Stack]:
    """Start a stack and wait until it is ready; kill it afterwards. On failure print the logs.

    `processes`: settings of single processes.
    """
    own = processes or {}
    database_url, postgres = await proxied(database)
    amqp_url, rabbitmq = await proxied(services.amqp)
    redis_url, redis = await proxied(services.redis)
    port, sandbox = free_port(), local_sandbox()
    providers = {"sandbox": {**provider_at(sandbox.port), **(provider or {})}, **(others or {})}
    stack_settings = {
        **QUICK,
        "database_url": database_url,
        "amqp_url": amqp_url,
        "redis_url": redis_url,
        "namespace": namespace,
        "port": str(port),
        "providers": json.dumps(providers),
        **settings,
    }
    environment = environment_without_settings() | as_variables(stack_settings)
    proxies = {"postgres": postgres, "rabbitmq": rabbitmq, "redis": redis}
    async with client() as session, serving(sandbox):
        stack = Stack(services, database, namespace, folder, proxies, environment, port, sandbox, session)
        try:
            for name, command in PROCESSES.items():
                stack.start(name, *command, **own.get(name, {}))
            await stack.until_all_up()
            yield stack
        except BaseException:
            for name, process in stack.processes.items():
                sys.stderr.write(f"--- {name}\n{process.output()[-3000:]}\n")
            raise
        finally:
            for process in stack.processes.values():
                process.end()
            await asyncio.gather(*(proxy.close() for proxy in proxies.values()))
