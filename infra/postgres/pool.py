"""Database pools: threads with a connection each, which run synchronous transactions with a deadline.

A server-side timeout does not free a thread whose Postgres is frozen. Every call therefore has a deadline in the client. When
it passes, the socket is shut down under the blocked thread; the transaction may have been committed. The server notices the
shutdown within `_CHECK_CLIENT_MS` and ends the statement, so abandoned calls do not pile up.
"""

import asyncio
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import psycopg2
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from infra.postgres.errors import DeadlinePassed, Unavailable, Unexpected, classify

log = structlog.get_logger()

T = TypeVar("T")
_CONNECT_SECONDS = 2  # libpq's smallest
_CHECK_CLIENT_MS = 500
_CHECK_CLIENT_VERSION = 140_000  # client_connection_check_interval came with Postgres 14
_LOCK_SECONDS = 10.0
_UNEXPECTED_EVERY_SECONDS = 10.0
_MOST_PROBES = 127  # of Linux

# Statements look rows up by keys. With these settings Postgres never plans a scan of a table that was small at the last
# ANALYZE: the outbox grows from nothing to a million rows while a broker is down (docs/decisions/0003).
# The scan of a table without an index, as `installation`, then seems to cost enough for JIT, which takes 100 ms of CPU.
_KEY_LOOKUPS = ("enable_seqscan=off", "enable_bitmapscan=off", "enable_hashjoin=off", "enable_mergejoin=off", "jit=off")


def _lost_clients(seconds: float) -> tuple[str, ...]:
    """Options that end the session of a host that has been unreachable for about `seconds`."""
    probes = min(_MOST_PROBES, max(3, math.ceil(seconds / 5) - 2))
    timeout = f"tcp_user_timeout={math.ceil(seconds) + 5}s"
    return "tcp_keepalives_idle=10", "tcp_keepalives_interval=5", f"tcp_keepalives_count={probes}", timeout


class _Call(Generic[T]):
    """One transaction in a thread. Another thread may abandon it."""

    def __init__(self, engine: sa.Engine, work: Callable[[sa.Connection], T]):
        self._engine = engine
        self._work = work
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None  # a duplicate: libpq may close its own at any moment
        self._abandoned = False

    def run(self) -> T:
        if self._abandoned:
            raise Unavailable("the deadline passed before a connection was free")
        with self._engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, psycopg2.extensions.connection)
            with self._lock:
                if self._abandoned:
                    raise Unavailable("the deadline passed while connecting")
                duplicate = self._socket = socket.fromfd(raw.fileno(), socket.AF_UNSPEC, socket.SOCK_STREAM)
            try:
                _check_client(connection, raw)
                return self._work(connection)
            finally:
                with self._lock, duplicate:  # from here on the connection may serve another call
                    self._socket = None
                    if self._abandoned:  # maybe after the last statement, so that no error has told SQLAlchemy
                        connection.invalidate()

    def abandon(self) -> None:
        """Free the thread by shutting its socket down. The connection is then discarded."""
        with self._lock:
            self._abandoned = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    log.debug("postgres.closed_before_shutdown")


def _check_client(connection: sa.Connection, raw: psycopg2.extensions.connection) -> None:
    """Make the server detect a client that disconnects during its statement."""
    if connection.info.get("checks_client") or raw.server_version < _CHECK_CLIENT_VERSION:
        return
    connection.info["checks_client"] = True
    try:
        connection.exec_driver_sql(f"SET client_connection_check_interval = {_CHECK_CLIENT_MS}")
    except sa.exc.DataError as error:  # unsupported by the server's platform: the statement timeout ends the statement
        log.debug("postgres.client_not_checked", reason=str(error.orig))


class Contact:
    """Contact with Postgres: how long it has answered. A failed connection or `silence_seconds` without any answer loses it.

    A call that waits for a lock or a slow disk does not lose it while other calls are answered.
    """

    def __init__(self, silence_seconds: float, *, monotonic: Callable[[], float] = time.monotonic):
        self._silence_seconds = silence_seconds
        self._monotonic = monotonic
        self._since: float | None = None
        self._silent_since: float | None = None  # the first request after the last answer

    def requested(self) -> None:
        if self._silent_since is None:
            self._silent_since = self._monotonic()

    def answered(self) -> None:
        self._silent_since = None
        if self._since is None:
            self._since = self._monotonic()

    def abandoned(self) -> None:
        """A call was abandoned at its deadline."""
        self.requested()
        assert self._silent_since is not None
        if self._monotonic() - self._silent_since >= self._silence_seconds:
            self.lost()

    def lost(self) -> None:
        self._since = None

    @property
    def seconds(self) -> float:
        """Seconds since the first answer after the last loss; 0 while contact is lost."""
        return 0.0 if self._since is None else self._monotonic() - self._since


class DatabasePool:
    """Runs transactions in `threads` threads. Slow work in one pool never delays another pool.

    `scans`: statements may read whole tables. `statement_seconds`: the longest deadline of a call; the server ends a statement
    after it, too. `idle_transaction_seconds`: the server ends a transaction that is idle for so long.
    `silence_seconds`: see `Contact`. `lost_client_seconds`: the server then ends the session of an unreachable client, with its
    locks and its snapshot.

    `engine` connects at the first call. It is in autocommit: one statement is one transaction and one round trip, not three.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        threads: int,
        idle_session_seconds: int | None = None,
        scans: bool = False,
        statement_seconds: float = 10.0,
        idle_transaction_seconds: int = 60,
        silence_seconds: float = 5.0,
        lost_client_seconds: float = 25.0,
    ):
        options = [
            f"statement_timeout={statement_seconds * 1000:.0f}",
            f"lock_timeout={min(_LOCK_SECONDS, statement_seconds) * 1000:.0f}",
            f"idle_in_transaction_session_timeout={idle_transaction_seconds}s",
            *([f"idle_session_timeout={idle_session_seconds}s"] if idle_session_seconds else []),
            *_lost_clients(lost_client_seconds),
            *(() if scans else _KEY_LOOKUPS),
            "timezone=UTC",
        ]
        self.engine = sa.create_engine(
            sa.make_url(url).set(drivername="postgresql+psycopg2"),
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # an error's text must not carry bodies and destinations into a log
            pool_size=threads,
            max_overflow=0,
            pool_reset_on_return=None,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": f"posthaste {name}",
                "client_encoding": "utf8",  # independent of the server's locale
                "options": " ".join(f"-c {option}" for option in options),
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"postgres-{name}")
        self._contact = Contact(silence_seconds)
        self._unexpected_at = float("-inf")

    async def call(self, work: Callable[[sa.Connection], T], timeout: float) -> T:
        """Run `work` on a connection, for at most `timeout` seconds.

        Raises:
            Unavailable: no answer in time, or no connection; the transaction may have been committed.
            TryAgain, BadData: see `infra.postgres.errors`.
        """
        call = _Call(self.engine, work)
        self._contact.requested()
        try:
            waiting = asyncio.wrap_future(self._pool.submit(call.run))
        except RuntimeError as error:  # the system has no thread to spare, or the pool is closed
            call.abandon()
            raise Unavailable(str(error)) from error
        try:
            async with asyncio.timeout(timeout):
                result = await asyncio.shield(waiting)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._contact.abandoned()
            call.abandon()
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller already has its error
            if isinstance(error, TimeoutError):
                raise DeadlinePassed(f"no answer from Postgres within {timeout:.3g} s") from error
            raise
        except (DBAPIError, psycopg2.Error, OSError) as error:
            raise self._classified(error) from error
        self._contact.answered()
        return result

    async def fetch(self, statement: sa.TextClause, timeout: float, /, **parameters: object) -> Sequence[sa.RowMapping]:
        """The rows of a statement, by column name; raises as `call`."""
        return await self.call(lambda connection: connection.execute(statement, parameters).mappings().all(), timeout)

    async def value(self, statement: sa.TextClause, timeout: float, /, **parameters: object) -> Any:
        """The one value of a statement's one row; raises as `call`."""
        return await self.call(lambda connection: connection.execute(statement, parameters).scalar_one(), timeout)

    async def execute(self, statement: sa.TextClause, timeout: float, /, **parameters: object) -> int:
        """Execute a statement; returns the number of changed rows. Raises as `call`."""
        return await self.call(lambda connection: connection.execute(statement, parameters).rowcount, timeout)

    def _classified(self, error: Exception) -> Exception:
        classified = classify(error)
        if isinstance(classified, Unavailable) and not isinstance(classified, Unexpected):
            self._contact.lost()
        else:
            self._contact.answered()
        if isinstance(classified, Unexpected) and time.monotonic() - self._unexpected_at >= _UNEXPECTED_EVERY_SECONDS:
            self._unexpected_at = time.monotonic()
            log.error("postgres.unexpected", pool=self._name, sqlstate=classified.sqlstate, reason=str(classified))
        return classified

    def contact_seconds(self) -> float:
        """Seconds of unbroken contact; see `Contact`."""
        return self._contact.seconds

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()
