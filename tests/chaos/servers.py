"""Private RabbitMQ, Postgres and Redis for one run, from the distribution's packages, each behind a proxy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dev import Instance
from dev.private_servers import private_servers
from tests.support.own_rabbitmq import controller
from tests.support.proxy import Proxy
from tests.support.services import proxied


@dataclass(frozen=True)
class Server:
    """One server; `url` is its own URL, `proxy_url` leads through the proxy."""

    name: str
    instance: Instance
    url: str
    proxy_url: str
    proxy: Proxy

    async def start(self) -> None:
        await asyncio.to_thread(self.instance.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self.instance.kill)


@dataclass(frozen=True)
class Servers:
    """The three servers of a run."""

    postgres: Server
    rabbitmq: Server
    redis: Server

    def all(self) -> tuple[Server, Server, Server]:
        return (self.postgres, self.rabbitmq, self.redis)

    async def control(self, *arguments: str) -> None:
        """Run `rabbitmqctl` for this run's RabbitMQ."""
        await asyncio.to_thread(controller(self.rabbitmq.instance), *arguments)


@asynccontextmanager
async def own_servers() -> AsyncIterator[Servers]:
    """Start the servers behind proxies; delete them with their data afterwards."""
    async with private_servers("chaos") as (instances, _):
        yield await _with_proxies(instances)


async def _with_proxies(instances: dict[str, Instance]) -> Servers:
    variables = {name: value for each in instances.values() for name, value in each.variables.items()}
    urls = {
        "postgres": variables["POSTHASTE_DATABASE_URL"],
        "rabbitmq": variables["POSTHASTE_AMQP_URL"],
        "redis": variables["POSTHASTE_REDIS_URL"],
    }
    servers = {}
    for name, url in urls.items():
        proxy_url, proxy = await proxied(url)
        servers[name] = Server(name, instances[name], url, proxy_url, proxy)
    return Servers(**servers)
