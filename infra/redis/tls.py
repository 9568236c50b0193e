"""Connections over TLS (`rediss://`) with one shared context.

The client creates a context for each connection. That takes 25 ms, half of a call's timeout, and blocks the event loop.
"""

from contextlib import suppress
from typing import Any

from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.connection import RedisSSLContext


class _SharedContextConnection(SSLConnection):
    """A connection with the TLS context of its pool."""

    def __init__(self, *, shared: RedisSSLContext, **options: Any):
        super().__init__(**options)
        self.ssl_context = shared


def share_context(pool: ConnectionPool) -> None:
    """Give all TLS connections of a new pool one context. Pools without TLS are unchanged."""
    if not issubclass(pool.connection_class, SSLConnection):
        return
    shared = pool.connection_class(**pool.connection_kwargs).ssl_context
    with suppress(OSError):  # an unreadable certificate: each connection raises the error
        shared.get()
    pool.connection_kwargs["shared"] = shared
    pool.connection_class = _SharedContextConnection
