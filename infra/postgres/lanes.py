"""Lanes: small thread pools with a connection a thread, through which synchronous transactions are called with a deadline.

A server-side timeout does not free a thread whose Postgres is frozen. So every call has a deadline on the client: when it
passes, the socket is shut down under the blocked thread, and whether the transaction was committed is in doubt.
"""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import psycopg2
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from infra.postgres.errors import DeadlinePassed, Unavailable, classify

log = structlog.get_logger()

T = TypeVar("T")
_CONNECT_SECONDS = 2  # libpq's smallest


# Every statement of ours looks rows up by their keys. Told so, Postgres never plans a scan of a table that was small when
# it last counted (the outbox grows from nothing to a million rows while a broker is down): docs/decisions/0003.
_KEY_LOOKUPS = "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off"


def create_engine(url: str, *, connections: int, application: str, options: str = _KEY_LOOKUPS) -> sa.Engine:
    """An engine in autocommit: each of our transactions is one statement, so it costs one round trip and not three.

    Nothing connects before the first call.
    """
    return sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg2"),
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,  # bodies and destinations must not reach a log with an error's text
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return=None,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": application,
            "client_encoding": "utf8",  # whatever the server's locale suggests
            "options": f"-c statement_timeout=30s -c lock_timeout=10s -c timezone=UTC {options}",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )


class _Call(Generic[T]):
    """One transaction in a thread, which can be abandoned from outside."""

    def __init__(self, engine: sa.Engine, work: Callable[[sa.Connection], T]):
        self._engine = engine
        self._work = work
        self._lock = threading.Lock()
        self._fd: int | None = None
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
                self._fd = raw.fileno()
            try:
                return self._work(connection)
            finally:
                with self._lock:  # from here on the connection may serve somebody else
                    self._fd = None

    def abandon(self) -> None:
        """Free the thread by shutting its socket down; the pool then drops the connection as broken."""
        with self._lock:
            self._abandoned = True
            if self._fd is not None:
                with socket.socket(fileno=os.dup(self._fd)) as held:
                    try:
                        held.shutdown(socket.SHUT_RDWR)
                    except OSError:  # the peer was faster: it is closed already
                        return


def _step_back() -> None:
    """Let every other thread of the machine that wants the processor have it at once; sched(7), SCHED_IDLE.

    A nice value does not do: the kernel lets a nice thread finish its slice of some milliseconds, and a request is handed on
    several times.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, PermissionError) as error:  # not Linux, or a container that forbids it: slower for others, no more
        log.debug("lane.not_in_background", reason=str(error))


class Lane:
    """Calls transactions in `threads` threads of its own, so that slow work in one lane never holds up another.

    `scans`: its statements read whole tables; all others look rows up by their keys. `background`: its threads get a processor
    that nobody else wants.
    `contact_seconds()` says for how long Postgres has answered every call without a break.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        threads: int,
        idle_session_seconds: int | None = None,
        scans: bool = False,
        background: bool = False,
    ):
        options = "" if scans else _KEY_LOOKUPS
        if idle_session_seconds:
            options += f" -c idle_session_timeout={idle_session_seconds}s"
        self._engine = create_engine(url, connections=threads, application=f"posthaste {name}", options=options)
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix=f"postgres-{name}", initializer=_step_back if background else None
        )
        self._contact_since: float | None = None

    async def call(self, work: Callable[[sa.Connection], T], timeout: float) -> T:
        """Run `work` on a connection, for at most `timeout` seconds.

        Raises:
            Unavailable: no answer in time, or no connection; the commit is in doubt.
            TryAgain, BadData: see `infra.postgres.errors`.
        """
        call = _Call(self._engine, work)
        future: Future[T] = self._pool.submit(call.run)
        waiting = asyncio.wrap_future(future)
        try:
            async with asyncio.timeout(timeout):
                result = await asyncio.shield(waiting)
        except TimeoutError as error:
            self._abandon(call, waiting)
            raise DeadlinePassed(f"no answer from Postgres within {timeout:.3g} s") from error
        except asyncio.CancelledError:
            self._abandon(call, waiting)
            raise
        except (DBAPIError, psycopg2.Error) as error:
            raise self._classified(error) from error
        if self._contact_since is None:
            self._contact_since = time.monotonic()
        return result

    def _abandon(self, call: _Call[T], waiting: "asyncio.Future[T]") -> None:
        self._contact_since = None
        call.abandon()
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # told to the caller already

    def _classified(self, error: Exception) -> Exception:
        classified = classify(error)
        if isinstance(classified, Unavailable):
            self._contact_since = None
        return classified

    def contact_seconds(self) -> float:
        """Seconds of unbroken contact: since the first call that was answered after the last that was not."""
        return 0.0 if self._contact_since is None else time.monotonic() - self._contact_since

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()
