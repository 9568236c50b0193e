"""Connections to Redis: their permissions, their pools, and the deadline of each call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool, SSLConnection
from redis.asyncio.connection import RedisSSLContext
from redis.exceptions import RedisError

from infra.errors import Transient

CALL_SECONDS = 0.05
ERRORS = (RedisError, OSError, TimeoutError)


class CacheDown(Transient):
    """Redis does not answer within 50 ms. The ledger has the status."""


def rules(namespace: str) -> list[str]:
    """The ACL rules of a namespace's user: keys, channels and commands. Redis also checks the commands of scripts.

    A test runs the cache and the events under exactly these rules. docker-compose.yml and docs/operations.md repeat them.
    """
    commands = ["get", "mget", "set", "eval", "evalsha", "script|load", "publish", "subscribe", "unsubscribe"]
    commands += ["exists", "incrby", "pttl", "rename"]  # called by the scripts that count requests
    # Called by the scripts of live figures.
    commands += ["time", "hincrby", "hgetall", "expire", "pexpire", "zadd", "zrem", "zrange", "zremrangebyscore"]
    # Connecting: HELLO, PING, SELECT, CLIENT SETINFO (which older servers do not know by name), but not CLIENT KILL.
    connecting = ["-@all", "+@connection", "-@dangerous"]
    return [f"~{namespace}:*", f"&{namespace}:*", *connecting, *(f"+{command}" for command in commands)]


class _SharedContextConnection(SSLConnection):
    """A connection with the TLS context of its pool. The client's own context for each one blocks the event loop for 25 ms."""

    def __init__(self, *, shared: RedisSSLContext, **options: Any):
        super().__init__(**options)
        self.ssl_context = shared


def open_pool(url: str, connections: int, **options: Any) -> BlockingConnectionPool:
    """A pool whose calls wait `CALL_SECONDS` for a free connection. `options`: of its connections.

    Connecting has a timeout of 1 s. `deadline` bounds each call: the client's own timeout costs a task.
    """
    options = {"socket_timeout": None, "socket_connect_timeout": 1.0, **options}
    pool = BlockingConnectionPool.from_url(url, max_connections=connections, timeout=CALL_SECONDS, **options)
    if issubclass(pool.connection_class, SSLConnection):
        shared = pool.connection_class(**pool.connection_kwargs).ssl_context
        with suppress(OSError):  # an unreadable certificate: each connection raises the error
            shared.get()
        pool.connection_kwargs["shared"] = shared
        pool.connection_class = _SharedContextConnection
    return pool


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Bounds the calls of its block. Raises CacheDown: an error of Redis, or no answer in time."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except ERRORS as error:
        raise CacheDown(str(error) or f"no answer within {seconds * 1000:g} ms") from error
