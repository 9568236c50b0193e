"""The services for tests: those in the environment, else those that `make services` found or started."""

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika
import aiohttp
import psycopg2

from infra.rabbitmq.topology import delete, describe
from service.settings import Settings
from tests.support.proxy import Proxy

PROVIDERS = ["sandbox", "other"]  # of the queues that each test's namespace may have


@dataclass(frozen=True)
class Services:
    """The URLs of real RabbitMQ, Postgres and Redis."""

    amqp: str
    database: str
    redis: str
    management: str | None

    def sql(self, statement: str, database: str | None = None) -> list[tuple[object, ...]]:
        """Run one statement in `database`, by default in the URL's."""
        return sql(with_path(self.database, database) if database else self.database, statement)


def sql(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement in autocommit on a new connection."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def find() -> Services:
    """Read the services' URLs. A missing one is a failure, never a skip; pydantic names its variable."""
    found = Settings()
    return Services(found.amqp_url, found.database_url, found.redis_url, found.management_url)


def with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))


def with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{credentials}127.0.0.1:{port}"))


async def proxied(url: str) -> tuple[str, Proxy]:
    """Start a proxy for a URL; return the URL through it."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    proxy = await Proxy(parts.hostname, parts.port).start()
    return with_port(url, proxy.port), proxy


def unique(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex[:12]}"


async def drop_namespace(amqp: str, namespace: str, providers: list[str]) -> None:
    """Delete the exchanges and queues of a namespace."""
    async with await aio_pika.connect(amqp) as connection:
        await delete(await connection.channel(), describe(namespace, providers))


async def management(services: Services, method: str, path: str, body: object = None) -> object:
    """Call RabbitMQ's management API."""
    assert services.management, "POSTHASTE_MANAGEMENT_URL is not set"
    parts = urlsplit(services.management)
    auth = {"Authorization": aiohttp.encode_basic_auth(parts.username or "guest", parts.password or "guest")}
    base = f"{parts.scheme}://{parts.hostname}:{parts.port}"
    async with (
        aiohttp.ClientSession(headers=auth) as session,
        session.request(method, base + path, json=body, timeout=aiohttp.ClientTimeout(total=10)) as response,
    ):
        response.raise_for_status()
        return await response.json() if response.content_type == "application/json" and response.status != 204 else None
