"""The posts table: filled by COPY, read by a plain SELECT through a server-side cursor, emptied by TRUNCATE."""

import io
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TextIO, cast

import psycopg2
import sqlalchemy as sa

from infra.postgres.errors import classify

FETCH_ROWS = 2000  # of the cursor in one round trip
_CONNECT_SECONDS = 2
_LOCK_SECONDS = 3


class Busy(Exception):
    """Somebody reads or writes the posts; try again when they are done."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What the table holds; `oldest` and `newest` are None where it is empty."""

    posts: int
    users: int
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class Post:
    """A post to be written."""

    user_id: int
    context: str
    created_at: datetime

    def copy_line(self) -> str:
        """One line of COPY's text format; https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"."""
        text = self.context.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
        return f"{self.user_id}\t{text}\t{self.created_at.isoformat()}\n"


class Posts:
    """Each call has a connection of its own: these are few, long, and apart from the hot path. Errors are classified."""

    def __init__(self, url: str):
        self._url = url

    def _connect(self, options: str = "") -> psycopg2.extensions.connection:
        try:
            return psycopg2.connect(
                self._url,
                connect_timeout=_CONNECT_SECONDS,
                application_name="posthaste posts",
                client_encoding="utf8",
                options=f"-c timezone=UTC {options}",
            )
        except psycopg2.Error as error:
            raise classify(error) from error

    def fill(self, posts: Iterable[Post]) -> None:
        """Append posts, all or none, as fast as they are made.

        Raises:
            BadData: a text that Postgres refuses. Unavailable: the connection was lost; nothing was written.
        """
        with closing(self._connect()) as connection, _classified(), connection, connection.cursor() as cursor:
            cursor.copy_expert("COPY posts (user_id, context, created_at) FROM STDIN", cast(TextIO, _Lines(posts)))
            cursor.execute("ANALYZE posts")

    def truncate(self) -> None:
        """Empty the table.

        Raises:
            Busy: a report reads the posts (it is named), or they are being filled. The lock decides: a report that begins
                after the look waits for us, one that holds it makes us give up.
        """
        with closing(self._connect(f"-c lock_timeout={_LOCK_SECONDS}s")) as connection, _classified():
            if running := _running_reports(connection):
                raise Busy(f"report {running} is being computed; `posthaste wait ID` returns when it is done")
            try:
                with connection, connection.cursor() as cursor:
                    cursor.execute("TRUNCATE posts")  # the ids go on: to restart them takes the schema's owner
            except psycopg2.errors.LockNotAvailable as error:
                connection.rollback()
                by = f"report {running}" if (running := _running_reports(connection)) else "a report in a request, or seeding"
                raise Busy(f"the posts are in use since over {_LOCK_SECONDS} s, by {by}") from error

    def stats(self) -> Stats:
        with closing(self._connect()) as connection, _classified(), connection.cursor() as cursor:
            cursor.execute("SELECT count(*), count(DISTINCT user_id), min(created_at), max(created_at) FROM posts")
            row = cursor.fetchone()
            assert row is not None
            return Stats(*row)


def _running_reports(connection: psycopg2.extensions.connection) -> str:
    """The ids of the reports that are being computed, with commas; "" for none."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM jobs WHERE kind = 'report' AND status = 'processing' ORDER BY id LIMIT 5")
        return ", ".join(str(row[0]) for row in cursor.fetchall())


def texts(connection: sa.Connection) -> Iterator[tuple[int, str]]:
    """Every post's (user id, text) in one snapshot, streamed: memory does not grow with the table.

    To be called inside a pool's call. The open transaction holds a lock against TRUNCATE, so the rows are those of one
    moment, whole. The pool is in autocommit, so the transaction is begun and ended here. The driver's own cursor is used:
    SQLAlchemy's rows cost as much again as fetching them.
    """
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, psycopg2.extensions.connection)
    with raw.cursor() as cursor:
        try:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Before the snapshot is taken: one that is older than a TRUNCATE would show an empty table.
            cursor.execute("LOCK TABLE posts IN ACCESS SHARE MODE")
            cursor.execute("DECLARE texts NO SCROLL CURSOR FOR SELECT user_id, context FROM posts")
            while rows := _fetch(cursor):
                yield from rows
        finally:
            if raw.closed:
                connection.invalidate()  # the pool does not see what the driver's own cursor met
            else:
                cursor.execute("ROLLBACK")


def _fetch(cursor: psycopg2.extensions.cursor) -> list[tuple[int, str]]:
    cursor.execute(f"FETCH {FETCH_ROWS} FROM texts")
    return cast("list[tuple[int, str]]", cursor.fetchall())


def about_how_many(connection: sa.Connection) -> int | None:
    """Postgres' own estimate of how many posts there are; None where it has not looked yet."""
    estimate = int(connection.exec_driver_sql("SELECT reltuples FROM pg_class WHERE oid = 'posts'::regclass").scalar_one())
    return estimate if estimate > 0 else None


class _classified:  # noqa: N801  reads as the context manager that it is
    """Turns the driver's errors into ours."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, psycopg2.Error):
            raise classify(error) from error


class _Lines(io.TextIOBase):
    """COPY's input: reads posts as they are made, so that millions need no memory."""

    def __init__(self, posts: Iterable[Post]):
        self._lines = (post.copy_line() for post in posts)

    def read(self, size: int | None = -1) -> str:
        chunk: list[str] = []
        length = 0
        for line in self._lines:
            chunk.append(line)
            length += len(line)
            if size is not None and 0 <= size <= length * 2:
                break
        return "".join(chunk)
