"""The connection of a lane: one partition after another uses it, because a new one takes longer than a small partition.

Each thread has its own. It has no transaction between two partitions, so vacuum does not wait for it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions

REUSE_SECONDS = 5.0  # later, the connection may be dead without a sign
_CLOSE_SECONDS = 15  # the server closes one that is not used; longer than REUSE_SECONDS
_IDLE_TIMEOUT_SINCE = 140000  # the version of Postgres that has idle_session_timeout
STATEMENT_SECONDS = 120  # for at most `plan.MOST_POSTS` posts or so
_LOCK_SECONDS = 10

_PARAMETERS: dict[str, Any] = {
    "application_name": "posthaste report",
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "options": f"-c timezone=UTC -c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={_LOCK_SECONDS}s "
    "-c idle_in_transaction_session_timeout=60s",
}


class _Kept(threading.local):
    """The connection of this thread, and when it was used."""

    connection: psycopg2.extensions.connection | None = None
    url = ""
    used = 0.0


_kept = _Kept()


@contextmanager
def read_only(url: str) -> Iterator[psycopg2.extensions.cursor]:
    """A cursor in a new transaction, REPEATABLE READ and READ ONLY, on the connection of this thread.

    An error closes the connection. Raises `psycopg2.Error`.
    """
    connection = _take(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield cursor
            cursor.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    _kept.connection, _kept.url, _kept.used = connection, url, time.monotonic()


def _take(url: str) -> psycopg2.extensions.connection:
    """The kept connection if it is of `url` and was used lately; else a new one. A kept one that is not used is closed."""
    kept, _kept.connection = _kept.connection, None
    if kept is not None:
        if _kept.url == url and time.monotonic() < _kept.used + REUSE_SECONDS:
            return kept
        kept.close()
    connection: psycopg2.extensions.connection = psycopg2.connect(url, **_PARAMETERS)
    connection.autocommit = True
    if connection.server_version >= _IDLE_TIMEOUT_SINCE:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_session_timeout = '{_CLOSE_SECONDS}s'")
    return connection
