"""A temporary service with its own processes, database and namespace, for the demo and the benchmarks."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp

from cli.sandbox import Sandbox
from cli.supervisor import START_SECONDS, CannotStart, Program, write_command
from infra.postgres import migration
from infra.rabbitmq.topology import delete, describe
from service.settings import PREFIX, Settings

POLL_SECONDS = 0.1
MESSAGES = (Program("api", "api"), Program("worker", "consumers messages"), Program("relay", "consumers relay"))


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

    `overrides`: other settings, by their names without the prefix. Yields a session with the API, and the database's URL.

    Raises:
        CannotStart: the service is not ready in time.
    """
    namespace, port = f"posthaste-{name}", free_port()
    database = migration.create_database(settings.owner_url, f"posthaste_{name}")
    migration.migrate(database, namespace)
    sandboxes = {"sandbox": sandbox, **(others or {})}
    providers = {each: {**provider, "url": f"http://{s.host}:{s.port}/message"} for each, s in sandboxes.items()}
    environment = {
        **os.environ,
        f"{PREFIX}DATABASE_URL": database,
        f"{PREFIX}AMQP_URL": settings.amqp_url,
        f"{PREFIX}REDIS_URL": settings.redis_url,
        f"{PREFIX}NAMESPACE": namespace,
        f"{PREFIX}PORT": str(port),
        f"{PREFIX}LOG_LEVEL": "warning",
        f"{PREFIX}PROVIDERS": json.dumps(providers),
        f"{PREFIX}DEFAULT_PROVIDER": "sandbox",
        **{PREFIX + name: value for name, value in (overrides or {}).items()},
    }
    client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0))
    async with _serving(*sandboxes.values()), _running(environment, programs), client as session:
        await _ready(session)
        yield session, database
    async with await aio_pika.connect(settings.amqp_url) as connection:
        await delete(await connection.channel(), describe(namespace, providers))
    migration.drop_database(settings.owner_url, f"posthaste_{name}")


@asynccontextmanager
async def _serving(*sandboxes: Sandbox) -> AsyncIterator[None]:
    stop = asyncio.Event()
    serving = [asyncio.create_task(sandbox.serve(stop)) for sandbox in sandboxes]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*serving)


@asynccontextmanager
async def _running(environment: dict[str, str], programs: Sequence[Program]) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory(prefix="posthaste-") as folder:
        command = write_command(list(programs), Path(folder), stop_seconds=30)
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


async def _ready(session: aiohttp.ClientSession) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            async with session.get("/health/ready") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass  # not listening yet; the deadline ends the loop
        await asyncio.sleep(POLL_SECONDS)
    raise CannotStart(f"the service was not ready within {START_SECONDS:g} s; see `posthaste doctor`")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
