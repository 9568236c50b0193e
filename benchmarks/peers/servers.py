"""RabbitMQ, Postgres and Redis of the comparison alone: started for it, emptied between systems, deleted with their data."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psycopg2
import redis

from dev.instance import Instance
from dev.private_servers import private_servers
from dev.process import Process

ROOT = Path(__file__).parents[2]
NAME = "bench"  # the virtual host and the database of the system that is measured
REPORTED_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers", "max_connections")


@dataclass(frozen=True)
class Servers:
    """The three instances, by name."""

    instances: dict[str, Instance]

    @property
    def processes(self) -> dict[str, Process]:
        """The servers' processes, by name."""
        return {name: process for name, each in self.instances.items() if (process := each.server) is not None}

    @property
    def amqp(self) -> str:
        return self._url("rabbitmq", "AMQP_URL") + NAME

    @property
    def database(self) -> str:
        return self._url("postgres", "DATABASE_URL").rpartition("/")[0] + f"/{NAME}"

    @property
    def redis(self) -> str:
        return self._url("redis", "REDIS_URL")

    async def empty(self) -> None:
        """Replace the virtual host and the database, and delete all keys."""
        management = urlsplit(self._url("rabbitmq", "MANAGEMENT_URL"))
        base, guest = f"http://{management.hostname}:{management.port}/api", aiohttp.BasicAuth("guest", "guest")
        async with aiohttp.ClientSession(auth=guest) as session:
            await session.delete(f"{base}/vhosts/{NAME}")
            for path, body in ((f"vhosts/{NAME}", {}), (f"permissions/{NAME}/guest", dict.fromkeys(_PERMISSIONS, ".*"))):
                (await session.put(f"{base}/{path}", json=body)).raise_for_status()
        await asyncio.to_thread(self._replace_database)
        with redis.Redis.from_url(self.redis) as client:
            client.flushall()

    def versions(self) -> dict[str, str]:
        """The servers' versions as they report them."""
        with redis.Redis.from_url(self.redis) as client:
            cache = str(client.info("server")["redis_version"])
        return {
            "RabbitMQ": self.instances["rabbitmq"].service.version().removeprefix("RabbitMQ "),
            "PostgreSQL": self._settings("server_version")["server_version"].split()[0],
            "Redis": cache,
        }

    def postgres_settings(self) -> dict[str, str]:
        return self._settings(*REPORTED_SETTINGS)

    def _url(self, name: str, variable: str) -> str:
        return self.instances[name].variables[f"POSTHASTE_{variable}"]

    def _settings(self, *names: str) -> dict[str, str]:
        with closing(psycopg2.connect(self._url("postgres", "DATABASE_URL"))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)", (list(names),))
            return dict(cursor.fetchall())

    def _replace_database(self) -> None:
        with closing(psycopg2.connect(self._url("postgres", "DATABASE_URL"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
                cursor.execute(f"CREATE DATABASE {NAME}")
                cursor.execute("CHECKPOINT")  # one system's dirty pages are not written at the next one's expense


_PERMISSIONS = ("configure", "write", "read")


@asynccontextmanager
async def own_servers() -> AsyncIterator[tuple[Servers, Path]]:
    """Start the servers. Yields a folder for logs, too."""
    async with private_servers("bench") as (instances, folder):
        yield Servers(instances), folder
