"""RabbitMQ, Postgres and Redis of one run's own, from the distribution's packages, with a proxy in front of each."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dev import Instance
from tests.own_rabbitmq import controller
from tests.proxy import Proxy
from tests.services import proxied

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """One server: `url` is its own, `through` that of the proxy in front of it."""

    name: str
    instance: Instance
    url: str
    through: str
    proxy: Proxy

    async def start(self) -> None:
        await asyncio.to_thread(self.instance.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self.instance.kill)


@dataclass(frozen=True)
class Servers:
    """All three."""

    postgres: Server
    rabbitmq: Server
    redis: Server

    def all(self) -> tuple[Server, Server, Server]:
        return (self.postgres, self.rabbitmq, self.redis)

    async def control(self, *arguments: str) -> None:
        """`rabbitmqctl` for this run's RabbitMQ and no other."""
        await asyncio.to_thread(controller(self.rabbitmq.instance), *arguments)


@asynccontextmanager
async def own_servers() -> AsyncIterator[Servers]:
    """Started for this run (packages that are missing are installed first), deleted with all their data after it."""
    with tempfile.TemporaryDirectory(prefix="posthaste-chaos-") as folder:
        root = Path(folder)
        instances = {name: Instance.of(name, root) for name in ("postgres", "rabbitmq", "redis")}
        try:
            up = [sys.executable, "-m", "dev", "up", "--root", str(root), "--using", "packages"]
            await asyncio.to_thread(subprocess.run, up, cwd=ROOT, check=True, stdout=sys.stderr, env=_plain())
            yield await _described(instances)
        finally:
            for instance in instances.values():
                await asyncio.to_thread(instance.stop)
            instances["redis"].home.delete()


async def _described(instances: dict[str, Instance]) -> Servers:
    variables = {name: value for each in instances.values() for name, value in each.variables.items()}
    urls = {
        "postgres": variables["POSTHASTE_DATABASE_URL"],
        "rabbitmq": variables["POSTHASTE_AMQP_URL"],
        "redis": variables["POSTHASTE_REDIS_URL"],
    }
    servers = {}
    for name, url in urls.items():
        through, proxy = await proxied(url)
        servers[name] = Server(name, instances[name], url, through, proxy)
    return Servers(**servers)


def _plain() -> dict[str, str]:
    """Without URLs that the environment may name: those are somebody else's servers, and these are to be hurt."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POSTHASTE_")}
