"""One partition of a report: a function of its arguments and the database, for worker processes on any machine.

It imports little: each worker process has it in memory.
"""

import io
import os
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg2
import psycopg2.extensions

from consumers.reports.connection import read_only
from consumers.reports.counting import Counter, Integers, histogram
from consumers.reports.sums import Sums
from jobs.reports import ReportParameters

CHUNK_BYTES = 1 << 20
DATABASE_URL = "POSTHASTE_DATABASE_URL"

# Of `SET TRANSACTION SNAPSHOT`: the snapshot does not exist; the same until Postgres 16; its transaction has ended.
_SNAPSHOT_LOST = ("42704", "22023", "55000")


class SnapshotLost(Exception):
    """The snapshot has ended with the transaction that exported it."""


class NotConfigured(Exception):
    """The worker has no POSTHASTE_DATABASE_URL."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An exported snapshot: its id, and its content. After a restart of Postgres, another one may get the same id."""

    id: str
    content: str  # pg_current_snapshot()

    def __str__(self) -> str:
        return f"{self.id} {self.content}"

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read what `str` wrote."""
        return cls(*text.split(" "))


@dataclass(frozen=True, slots=True)
class Partition:
    """The posts of `parameters` with ids above `low`, up to `high`. `url`: of the database; None: the worker's own."""

    number: int
    low: int
    high: int
    snapshot: Snapshot
    parameters: ReportParameters
    url: str | None = field(default=None, repr=False)  # it has a password


@dataclass(frozen=True, slots=True)
class PartitionResult:
    """`words[n]` are those of `users[n]`, ascending. `length_posts[n]` posts have `lengths[n]` words; None: no histogram."""

    number: int
    posts: int
    users: Integers
    words: Integers
    lengths: Integers | None = None
    length_posts: Integers | None = None


class Chunks(io.RawIOBase):
    """The end of the buffer that COPY fills: Python runs once for each chunk, not once for each row."""

    def __init__(self, counter: Counter):
        self._counter = counter

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._counter.write(data)


def count_partition(partition: Partition) -> PartitionResult:
    """Count the words of a partition.

    Raises:
        SnapshotLost, NotConfigured, UnexpectedFormat: see there. psycopg2.Error: every other failure of Postgres.
    """
    users, lengths = Sums(), Sums() if partition.parameters.histogram else None
    posts = 0

    def add(user_ids: Integers, words: Integers) -> None:
        nonlocal posts
        posts += len(user_ids)
        users.add(user_ids, words)
        if lengths is not None:
            lengths.add(*histogram(words))

    url = partition.url or os.environ.get(DATABASE_URL)
    if not url:
        raise NotConfigured(f"{DATABASE_URL} is not set in the environment of the worker")
    with read_only(url) as cursor:
        import_snapshot(cursor, partition.snapshot)
        counter = Counter(add)
        rows = io.BufferedWriter(Chunks(counter), CHUNK_BYTES)
        cursor.copy_expert(_copy(cursor, partition), cast(Any, rows))
        rows.flush()
        counter.finish()
    of_lengths = (None, None) if lengths is None else lengths.result()
    return PartitionResult(partition.number, posts, *users.result(), *of_lengths)


def import_snapshot(cursor: psycopg2.extensions.cursor, snapshot: Snapshot) -> None:
    """Give the transaction the snapshot. Raises `SnapshotLost`, or `psycopg2.Error`."""
    try:
        cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot.id,))
    except psycopg2.Error as error:
        if error.pgcode in _SNAPSHOT_LOST:
            raise SnapshotLost(str(error).strip()) from error
        raise
    cursor.execute("SELECT CAST(pg_current_snapshot() AS text)")
    if cursor.fetchone() != (snapshot.content,):
        raise SnapshotLost("another snapshot has its id")


def _copy(cursor: psycopg2.extensions.cursor, partition: Partition) -> str:
    """The COPY statement; the driver quotes the values."""
    wanted = partition.parameters
    conditions: dict[str, Any] = {
        "id > %s": partition.low,
        "id <= %s": partition.high,
        "created_at >= %s": wanted.start,
        "created_at < %s": wanted.end,
        "user_id = ANY(%s)": None if wanted.user_ids is None else list(wanted.user_ids),
    }
    conditions = {condition: value for condition, value in conditions.items() if value is not None}
    select = f"SELECT user_id, context FROM posts WHERE {' AND '.join(conditions)}"  # noqa: S608  constants
    return f"COPY ({cursor.mogrify(select, list(conditions.values())).decode()}) TO STDOUT (FORMAT binary)"
