"""A service for a while: processes, a database and a namespace of its own, all gone afterwards. For the demo and benchmarks."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp

from cli.sandbox import Sandbox
from cli.up import CannotStart, Program, configuration
from infra.postgres import schema
from infra.rabbitmq.topology import delete, describe
from service.settings import PREFIX, Settings

START_SECONDS = 90.0
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
    changed: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A ready service on these settings' servers, that sends through `sandbox` and through `others`, by provider name.

    `changed`: other settings, by their names without the prefix. Gives a session with its API, and its database's URL.

    Raises:
        CannotStart: it does not come up.
    """
    namespace, port = f"posthaste-{name}", free_port()
    database = schema.create_database(settings.owner_url, f"posthaste_{name}")
    schema.migrate(database, namespace)
    described = {"url": f"http://{sandbox.host}:{sandbox.port}/message", **provider}
    more = {other: {**described, "url": f"http://{each.host}:{each.port}/message"} for other, each in (others or {}).items()}
    environment = {
        **os.environ,
        f"{PREFIX}DATABASE_URL": database,
        f"{PREFIX}AMQP_URL": settings.amqp_url,
        f"{PREFIX}REDIS_URL": settings.redis_url,
        f"{PREFIX}NAMESPACE": namespace,
        f"{PREFIX}PORT": str(port),
        f"{PREFIX}LOG_LEVEL": "warning",
        f"{PREFIX}PROVIDERS": json.dumps({"sandbox": described, **more}),
        f"{PREFIX}DEFAULT_PROVIDER": "sandbox",
        **{PREFIX + name: value for name, value in (changed or {}).items()},
    }
    client = aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0))
    async with _serving(sandbox, *(others or {}).values()), _running(environment, programs), client as session:
        await _ready(session)
        yield session, database
    async with await aio_pika.connect(settings.amqp_url) as connection:
        await delete(await connection.channel(), describe(namespace, ["sandbox", *more]))
    schema.drop_database(settings.owner_url, f"posthaste_{name}")


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
        file = Path(folder) / "supervisord.conf"
        file.write_text(configuration(list(programs), Path(folder), stop_seconds=30))
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)]
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
            pass  # not listening yet: the deadline is what ends this
        await asyncio.sleep(POLL_SECONDS)
    raise CannotStart(f"the service was not ready within {START_SECONDS:g} s; `posthaste doctor` says what is wrong")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
