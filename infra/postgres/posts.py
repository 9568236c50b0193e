"""The posts table: filled by COPY, read by a plain SELECT through a server-side cursor, emptied by TRUNCATE."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO, cast

import psycopg2

from infra.postgres.errors import classify
from infra.postgres.posts_stats import Stats, count_posts, estimate_posts

if TYPE_CHECKING:  # the processes of seeding start without it
    import sqlalchemy as sa

FETCH_ROWS = 2000  # of the cursor in one round trip
_LOCK_SECONDS = 3
_WRITE_LOCK_SECONDS = 60  # of one chunk: a manual TRUNCATE must not stop a seeding for ever, and the seeding it
_COPY = "COPY posts (user_id, context, created_at) FROM STDIN"
_COPY_BYTES = 1 << 18  # of one write to the connection


class Busy(Exception):
    """A report or a seed uses the posts; try again later."""


@dataclass(frozen=True, slots=True)
class Post:
    """A new post."""

    user_id: int
    context: str
    created_at: datetime

    def copy_line(self) -> str:
        """One line of COPY's text format; https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"."""
        text = self.context.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
        return f"{self.user_id}\t{text}\t{self.created_at.isoformat()}\n"


class Posts:
    """Fills, empties and counts the posts. Each call has its own connection: calls are rare and long."""

    def __init__(self, url: str):
        self._url = url

    @contextmanager
    def _connected(self, lock_seconds: int = 0) -> Iterator[psycopg2.extensions.connection]:
        """Connect. `lock_seconds`: the longest wait for a lock; 0: no limit."""
        named: dict[str, Any] = {"application_name": "posthaste posts", "client_encoding": "utf8", "connect_timeout": 2}
        named |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
        options = f"-c timezone=UTC -c lock_timeout={lock_seconds}s -c idle_in_transaction_session_timeout=0"
        try:
            with closing(psycopg2.connect(self._url, options=options, **named)) as connection:
                yield connection
        except psycopg2.Error as error:
            raise classify(error) from error

    def fill(self, posts: Iterable[Post]) -> None:
        """Append posts in one transaction.

        Raises:
            BadData: a text that Postgres refuses. Unavailable: the connection was lost; nothing was written.
        """
        with self._connected() as connection, connection, connection.cursor() as cursor:
            lines = (post.copy_line() for post in posts)
            source = SimpleNamespace(read=lambda size: next(lines, ""))  # one line a call: millions of posts need no memory
            cursor.copy_expert(_COPY, cast(TextIO, source))
            cursor.execute("ANALYZE posts")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the lock of a reader, for which TRUNCATE waits. No snapshot: vacuum continues.

        Raises:
            Unavailable: no connection. Busy: TRUNCATE or a change of the schema holds the table.
        """
        with self._connected(_LOCK_SECONDS) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("LOCK TABLE posts IN ACCESS SHARE MODE")
            except psycopg2.errors.LockNotAvailable as error:
                raise Busy(f"another session locks the posts since over {_LOCK_SECONDS} s") from error
            yield

    @contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """A function that appends posts in COPY's binary format, each call in a transaction of its own.

        Raises:
            Unavailable: the connection was lost; the last transaction may have been committed. TryAgain: it waited too long
            for a lock. BadData: the data is not valid.
        """
        with self._connected(_WRITE_LOCK_SECONDS) as connection:

            def append(data: bytes) -> None:
                with connection, connection.cursor() as cursor:
                    cursor.copy_expert(f"{_COPY} WITH (FORMAT binary)", BytesIO(data), _COPY_BYTES)

            yield append

    def analyze(self) -> None:
        """Update Postgres' statistics of the posts. Before Postgres 17 only the owner can; for others nothing happens."""
        with self._connected() as connection, connection, connection.cursor() as cursor:
            cursor.execute("ANALYZE posts")

    def truncate(self) -> None:
        """Empty the table.

        Raises:
            Busy: a report (named in the message) or a seed uses the posts. The lock decides: a later report waits for it.
        """
        with self._connected() as connection:
            if running := _running_reports(connection):
                raise Busy(f"report {running} is being computed; `posthaste wait ID` returns when it is done")
            try:
                with connection, connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
                    cursor.execute("TRUNCATE posts")  # without RESTART IDENTITY, which needs the schema's owner
            except psycopg2.errors.LockNotAvailable as error:
                by = f"report {running}" if (running := _running_reports(connection)) else "a report in a request, or seeding"
                raise Busy(f"the posts are in use since over {_LOCK_SECONDS} s, by {by}") from error

    def stats(self) -> Stats:
        """Count the posts: a read of the whole table."""
        with self._connected() as connection, connection.cursor() as cursor:
            return count_posts(cursor)

    def estimate(self) -> Stats:
        """Postgres' estimates of what `stats` counts."""
        with self._connected() as connection, connection.cursor() as cursor:
            return estimate_posts(cursor)


def _running_reports(connection: psycopg2.extensions.connection) -> str:
    """The ids of running reports, separated by commas."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM jobs WHERE kind = 'report' AND status = 'processing' ORDER BY id LIMIT 5")
        return ", ".join(str(row[0]) for row in cursor.fetchall())


def texts(connection: "sa.Connection") -> Iterator[tuple[int, str]]:
    """Stream (user id, text) of every post from one snapshot; memory does not grow with the table.

    Call it inside a call of the pool. The transaction begins and ends here, because the pool is in autocommit; its lock
    excludes TRUNCATE. The driver's own cursor is used: SQLAlchemy's rows would double the cost.
    """
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, psycopg2.extensions.connection)
    with raw.cursor() as cursor:
        try:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Before the snapshot: a snapshot that is older than a TRUNCATE shows an empty table.
            cursor.execute("LOCK TABLE posts IN ACCESS SHARE MODE")
            cursor.execute("DECLARE texts NO SCROLL CURSOR FOR SELECT user_id, context FROM posts")
            while cursor.rowcount:  # -1 after DECLARE
                cursor.execute(f"FETCH {FETCH_ROWS} FROM texts")
                yield from cursor
        finally:
            if raw.closed:
                connection.invalidate()  # the pool does not see errors of the driver's own cursor
            else:
                cursor.execute("ROLLBACK")


def about_how_many(connection: "sa.Connection") -> int | None:
    """Postgres' estimate of the number of posts; None before the first ANALYZE."""
    estimate = int(connection.exec_driver_sql("SELECT reltuples FROM pg_class WHERE oid = 'posts'::regclass").scalar_one())
    return estimate if estimate > 0 else None
