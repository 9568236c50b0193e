"""The three services over TLS: a test certificate is accepted by its authority and refused without it."""

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg2
import pytest
from redis.asyncio import Redis

from infra.postgres.errors import DeadlinePassed, Unavailable
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import Posts
from infra.rabbitmq.connection import BROKER_ERRORS, connect
from infra.rabbitmq.topology import declare, delete, describe
from infra.redis.connection import CacheDown
from infra.redis.events import Events
from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from tests.support.factories import new_id
from tests.support.own_servers import Certificate, OwnServer, make_certificate, own_server
from tests.support.services import Services, sql
from tests.support.waiting import eventually

SECONDS = 5.0

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None and "CI" not in os.environ, reason="there is no openssl command to make a certificate"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that no server uses."""
    return make_certificate(tmp_path_factory.mktemp("stranger")).file


@pytest.fixture(scope="module")
def postgres(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL, without TLS, of a Postgres that offers TLS."""
    with own_server("postgres", tmp_path_factory.mktemp("postgres")) as server:
        sql(server.url, f"ALTER SYSTEM SET ssl_cert_file = '{server.put('server.crt', certificate.certificate)}'")
        sql(server.url, f"ALTER SYSTEM SET ssl_key_file = '{server.put('server.key', certificate.key)}'")
        sql(server.url, "ALTER SYSTEM SET ssl = on")
        sql(server.url, "SELECT pg_reload_conf()")
        deadline = time.monotonic() + SECONDS
        while sql(server.url, "SHOW ssl") != [("on",)]:
            assert time.monotonic() < deadline
        yield server.url


async def test_postgres(postgres: str, certificate: Certificate, stranger: Path) -> None:
    url = f"{postgres}?sslmode=verify-full&sslrootcert={certificate.file}"
    pool = DatabasePool(url, name="test", threads=1)

    async def encrypted() -> bool:
        statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        return bool(await pool.call(lambda connection: connection.exec_driver_sql(statement).scalar_one(), SECONDS))

    assert await encrypted()
    # An abandoned call shuts the socket down below the TLS layer, which frees its thread.
    with pytest.raises(DeadlinePassed):
        await pool.call(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(60)").close(), 0.2)
    assert await encrypted()
    pool.close()
    with pytest.raises(Unavailable, match="posts"):  # it came as far as to ask for the table, which is not there
        Posts(url).stats()
    mistrusting = DatabasePool(f"{postgres}?sslmode=verify-full&sslrootcert={stranger}", name="test", threads=1)
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await mistrusting.call(lambda connection: None, SECONDS)
    mistrusting.close()
    with pytest.raises(psycopg2.OperationalError, match="does not match host name"):
        sql(url.replace("@127.0.0.1:", "@localhost:"), "SELECT 1")


@pytest.fixture
async def redis(certificate: Certificate, tmp_path: Path) -> AsyncIterator[str]:
    """A Redis that speaks nothing but TLS; its `rediss://` URL."""
    with own_server("redis", tmp_path) as server:
        await _speak_tls_alone(server, certificate)
        yield server.url.replace("redis://", "rediss://")


async def _speak_tls_alone(server: OwnServer, certificate: Certificate) -> None:
    """Enable TLS on the same port; the connection that enables it survives."""
    key, chain = server.put("server.key", certificate.key), server.put("server.crt", certificate.certificate)
    async with Redis.from_url(server.url, single_connection_client=True) as administrator:
        port = str((await administrator.config_get("port"))["port"])
        named = {"tls-key-file": key, "tls-cert-file": chain, "tls-ca-cert-file": chain, "tls-auth-clients": "no"}
        for name, value in {**named, "port": "0", "tls-port": port}.items():
            await administrator.config_set(name, value)


async def test_redis(redis: str, certificate: Certificate, stranger: Path, namespace: str, patient_redis: None) -> None:
    notifications: asyncio.Queue[KnownStatus] = asyncio.Queue()
    url = f"{redis}?ssl_ca_certs={certificate.file}"
    events = Events(url, namespace=namespace)
    cache = StatusCache(url, namespace=namespace, ttl_seconds=5)
    listening = asyncio.create_task(events.run(notifications.put_nowait))
    await asyncio.wait_for(events.subscribed.wait(), 10)
    known = KnownStatus(new_id(), 1, Status.QUEUED, Kind.MESSAGE, "default", time.monotonic())
    async with events.watch(known.id):
        await cache.write([known], SECONDS)
        assert (await asyncio.wait_for(notifications.get(), 10)).id == known.id
    (read,) = await cache.read([known.id], SECONDS)
    assert read is not None
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await events.close()
    await cache.close()
    for bad in (f"{redis}?ssl_ca_certs={stranger}", redis):
        mistrusting = StatusCache(bad, namespace=namespace, ttl_seconds=5)
        with pytest.raises(CacheDown, match="certificate verify failed"):
            await mistrusting.ping()
        await mistrusting.close()


async def test_connections_to_redis_share_one_context(
    redis: str, certificate: Certificate, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TLS context costs half of a call's 50 ms: without sharing, one of eight first calls succeeded."""
    contexts: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        contexts.append(make())
        return contexts[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    cache = StatusCache(f"{redis}?ssl_ca_certs={certificate.file}", namespace=namespace, ttl_seconds=5)

    async def answered() -> int:
        answers = await asyncio.gather(*(cache.read([new_id()]) for _ in range(8)), return_exceptions=True)
        return sum(not isinstance(answer, BaseException) for answer in answers)

    await eventually(answered, lambda count: count == 8, 10)
    assert len(contexts) == 1
    await cache.close()


@asynccontextmanager
async def _tls_in_front_of(host: str, port: int, certificate: Certificate) -> AsyncIterator[int]:
    """A port that ends TLS and forwards the bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.file.with_name("server.key"))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection(host, port)
        await asyncio.gather(carry(reader, behind[1]), carry(behind[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def test_rabbitmq(services: Services, certificate: Certificate, stranger: Path, namespace: str) -> None:
    """TLS ends in front of the broker: the test covers the client's side."""
    topology = describe(namespace, ["sandbox"])
    user, _, place = services.amqp.removeprefix("amqp://").partition("/")[0].rpartition("@")
    host, _, port = place.partition(":")
    async with _tls_in_front_of(host, int(port or 5672), certificate) as secured:
        url = f"amqps://{user}@127.0.0.1:{secured}/"
        async with await connect(f"{url}?cafile={certificate.file}", "test") as connection:
            channel = await connection.channel()
            await declare(channel, topology)
            await delete(channel, topology)
        for bad in (f"{url}?cafile={stranger}", url):
            with pytest.raises(BROKER_ERRORS, match="certificate verify failed"):
                await connect(bad, "test")
