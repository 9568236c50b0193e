"""Temporary services for the demo, the benchmarks and the tests: their ports, environments, sandboxes and processes."""

import asyncio
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp

from cli.processes import START_SECONDS, CannotStart, Program, write_command
from cli.sandbox import Faults, Sandbox
from dev.databases import create_database, drop_database
from dev.ports import free_port
from infra.postgres import migration
from infra.rabbitmq.topology import delete, describe
from service.settings import PREFIX, Settings

POLL_SECONDS = 0.1
MESSAGES = (Program("api", "api"), Program("worker", "consumers messages"), Program("relay", "consumers relay"))


def environment_without_settings() -> dict[str, str]:
    """This process' environment without settings, so that no test reaches the services of others."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def as_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings under the names of their environment variables."""
    return {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}


def local_sandbox(faults: Faults | None = None, seed: int = 1, port: int | None = None) -> Sandbox:
    """A sandbox on a port of loopback, by default a free one."""
    return Sandbox("127.0.0.1", port or free_port(), faults or Faults(), random.Random(seed))  # noqa: S311  faults, not secrets


@asynccontextmanager
async def serving(*sandboxes: Sandbox) -> AsyncIterator[None]:
    """Serve the sandboxes."""
    tasks = [asyncio.create_task(sandbox.serve()) for sandbox in sandboxes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def is_ready(session: aiohttp.ClientSession, base: str = "") -> bool:
    """Whether the API is ready; False also while it does not listen."""
    try:
        async with session.get(f"{base}/health/ready") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


@asynccontextmanager
async def service(
    settings: Settings,
    name: str,
    sandbox: Sandbox,
    provider: Mapping[str, Any],
    programs: Sequence[Program] = MESSAGES,
    others: Mapping[str, Sandbox] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Run a service on these settings' servers that sends through `sandbox`, and through `others` by provider name.

    It has a namespace and a database of its own. `overrides`: other settings, by name. Yields a session with the API, and the
    database's URL.

    Raises:
        CannotStart: the service is not ready in time.
    """
    namespace, port = f"posthaste-{name}", free_port()
    database = create_database(settings.owner_url, f"posthaste_{name}")
    migration.migrate(database, namespace)
    sandboxes = {"sandbox": sandbox, **(others or {})}
    providers = {each: {**provider, "url": f"http://{s.host}:{s.port}/message"} for each, s in sandboxes.items()}
    own_settings = {
        "database_url": database,
        "amqp_url": settings.amqp_url,
        "redis_url": settings.redis_url,
        "namespace": namespace,
        "port": str(port),
        "log_level": "warning",
        "providers": json.dumps(providers),
        "default_provider": "sandbox",
        **(overrides or {}),
    }
    environment = {**os.environ, **as_variables(own_settings)}
    client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0))
    async with serving(*sandboxes.values()), _running(environment, programs), client as session:
        deadline = time.monotonic() + START_SECONDS
        while not await is_ready(session):
            if time.monotonic() > deadline:
                raise CannotStart(f"the service was not ready within {START_SECONDS:g} s; see `posthaste doctor`")
            await asyncio.sleep(POLL_SECONDS)
        yield session, database
    async with await aio_pika.connect(settings.amqp_url) as connection:
        await delete(await connection.channel(), describe(namespace, providers))
    drop_database(settings.owner_url, f"posthaste_{name}")


@asynccontextmanager
async def _running(environment: dict[str, str], programs: Sequence[Program]) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory(prefix="posthaste-") as folder:
        command = write_command(list(programs), Path(folder), stop_seconds=30)
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
