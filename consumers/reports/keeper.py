"""The keeper: a process that holds the snapshot of one report, so that it outlives a killed consumer.

`python -m consumers.reports.keeper` reads a `Task` as a line of JSON from its standard input, writes a line with the snapshot,
or with an error, and then holds the snapshot until one of these:

- the job has ended, or has a run with another snapshot;
- no process has computed the job for `ABANDONED_SECONDS`;
- `cap_seconds` have passed: vacuum waits no longer;
- Postgres ends the connection.

One transaction does all this. It is READ COMMITTED: it sees the job's changes, while the exported snapshot stays as it was.
"""

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, TypedDict

import psycopg2
import psycopg2.extensions

ABANDONED_SECONDS = 120.0
POLL_SECONDS = 0.5
_LOCK_SECONDS = 10
_SILENT_SECONDS = 60  # without a poll, the server ends the transaction: the keeper is frozen or unreachable

# The sequence is read first, then the writers, then the snapshot: docs/decisions/0020.
_VERSION = "SELECT last_value + CAST(is_called AS int) FROM posts_changes"
_WRITERS = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND relation = 'posts'::regclass AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
"""
# One statement has one snapshot: the exported one. Postgres' planner estimates rows in the same way.
_EXPORT = """
SELECT pg_export_snapshot() || ' ' || CAST(pg_current_snapshot() AS text), clock_timestamp(),
    (SELECT min(id) FROM posts), (SELECT max(id) FROM posts),
    (SELECT CASE WHEN relpages > 0 AND reltuples > 0 THEN CAST(reltuples / relpages
        * (pg_relation_size(oid) / current_setting('block_size')::int) AS bigint) END
        FROM pg_class WHERE oid = 'posts'::regclass)
"""
# A lease is renewed every second while a worker computes the job.
_STATE = """
SELECT j.status IN ('queued', 'retrying', 'processing') AND coalesce(r.snapshot, %(snapshot)s) = %(snapshot)s,
    j.status = 'processing' AND j.lease_until > clock_timestamp()
FROM jobs j LEFT JOIN report_runs r ON r.job_id = j.id WHERE j.id = %(id)s
"""


class Task(TypedDict):
    """The work of a keeper. `url`: of the database, which must not be on a command line."""

    url: str
    job_id: str
    cap_seconds: float


class Kept(TypedDict):
    """A snapshot. `posts_version`: None if a writer was active. `low`, `high`: the ids of posts; None: there are none."""

    snapshot: str
    snapshot_at: str
    posts_version: int | None
    low: int | None
    high: int | None
    estimate: int | None


@contextmanager
def _connected(url: str) -> Iterator[psycopg2.extensions.cursor]:
    options = (
        f"-c timezone=UTC -c statement_timeout=30s -c lock_timeout={_LOCK_SECONDS}s"
        f" -c idle_in_transaction_session_timeout={_SILENT_SECONDS}s"
        " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    )
    named: dict[str, Any] = {"application_name": "posthaste report snapshot", "connect_timeout": 5, "options": options}
    with closing(psycopg2.connect(url, keepalives_idle=10, keepalives_interval=5, keepalives_count=3, **named)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def _take(cursor: psycopg2.extensions.cursor) -> Kept:
    cursor.execute(_VERSION)
    version = _row(cursor)[0]
    cursor.execute(_WRITERS)
    if _row(cursor)[0]:
        version = None
    cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
    # Before the snapshot: a snapshot that is older than a TRUNCATE shows an empty table.
    cursor.execute("LOCK TABLE posts IN ACCESS SHARE MODE")
    cursor.execute(_EXPORT)
    snapshot, at, low, high, estimate = _row(cursor)
    return Kept(snapshot=snapshot, snapshot_at=at.isoformat(), posts_version=version, low=low, high=high, estimate=estimate)


def _hold(cursor: psycopg2.extensions.cursor, task: Task, snapshot: str) -> None:
    """Return when the snapshot is not needed any more, or for too long."""
    began = computed = time.monotonic()
    while time.monotonic() < min(began + task["cap_seconds"], computed + ABANDONED_SECONDS):
        cursor.execute(_STATE, {"id": task["job_id"], "snapshot": snapshot})
        found = cursor.fetchone()
        if found is None or not found[0]:
            return
        if found[1]:
            computed = time.monotonic()
        time.sleep(POLL_SECONDS)


def _tell(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _row(cursor: psycopg2.extensions.cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return row


def main() -> int:
    """Take a snapshot, tell it, hold it. Exit 1: Postgres failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    line = sys.stdin.readline()
    if not line:  # the consumer ended before it had a report
        return 0
    task: Task = json.loads(line)
    told = False
    try:
        with _connected(task["url"]) as cursor:
            kept = _take(cursor)
            _tell(kept)
            told = True
            _hold(cursor, task, kept["snapshot"])
    except psycopg2.Error as error:
        if not told:
            _tell({"error": str(error).strip(), "sqlstate": error.pgcode})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
