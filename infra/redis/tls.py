"""Connections over TLS (`rediss://`) that share one context: making one costs half of the time that a call may take.

The client makes a context for every connection, which takes 25 ms and holds up the event loop: calls would seldom get one.
"""

from contextlib import suppress
from typing import Any

from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.connection import RedisSSLContext


class _Sharing(SSLConnection):
    """A connection on the context of its pool."""

    def __init__(self, *, shared: RedisSSLContext, **options: Any):
        super().__init__(**options)
        self.ssl_context = shared


def share_context(pool: ConnectionPool) -> None:
    """Give a new pool's TLS connections one context; a pool of others stays as it is."""
    if not issubclass(pool.connection_class, SSLConnection):
        return
    shared = pool.connection_class(**pool.connection_kwargs).ssl_context
    with suppress(OSError):  # a certificate that cannot be read: each connection says so
        shared.get()
    pool.connection_kwargs["shared"] = shared
    pool.connection_class = _Sharing
