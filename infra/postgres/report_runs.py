"""Runs of reports: the plan over one snapshot, and the results of its partitions, stored under the claim of the job."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.model import Claimed

READ_PARTITIONS = 20  # at once: each may have as many users as posts

# Every write is fenced by version and token, and repeatable.
HELD = """held AS (
    SELECT id, claim_token FROM jobs
    WHERE id = :id AND version = :version AND claim_token = :token AND status = 'processing' FOR SHARE
)"""

_LOAD = sa.text("""
SELECT id, snapshot, snapshot_at, posts_version, bounds, restarts FROM report_runs WHERE job_id = :job_id
""")
_DELETE = sa.text(f"WITH {HELD} DELETE FROM report_runs r USING held WHERE r.job_id = held.id")  # noqa: S608  a constant
_CREATE = sa.text(f"""
WITH {HELD}, created AS (
    INSERT INTO report_runs (id, job_id, snapshot, snapshot_at, posts_version, bounds, restarts)
    SELECT CAST(:run_id AS uuid), held.id, :snapshot, CAST(:snapshot_at AS timestamptz), :posts_version,
        CAST(:bounds AS bigint[]), :restarts
    FROM held ON CONFLICT (id) DO NOTHING
)
SELECT count(*) FROM held
""")  # noqa: S608  a constant
_STORE = sa.text(f"""
WITH {HELD}, stored AS (
    INSERT INTO report_partitions (run_id, number, posts, users, words, lengths, length_posts)
    SELECT r.id, :number, :posts, CAST(:users AS integer[]), CAST(:words AS bigint[]),
        CAST(:lengths AS integer[]), CAST(:length_posts AS bigint[])
    FROM held JOIN report_runs r ON r.job_id = held.id AND r.id = CAST(:run_id AS uuid) ON CONFLICT DO NOTHING
)
SELECT count(*) FROM held JOIN report_runs r ON r.job_id = held.id AND r.id = CAST(:run_id AS uuid)
""")  # noqa: S608  a constant
_PARTITIONS = sa.text("""
SELECT number, posts, users, words, lengths, length_posts FROM report_partitions
WHERE run_id = :run_id AND number > :after ORDER BY number LIMIT :limit
""")


def array_literal(numbers: Sequence[int] | None) -> str | None:
    """An array for CAST. Postgres parses each element of the driver's own ARRAY[…] as an expression: six times as slow."""
    return None if numbers is None else "{" + ",".join(map(str, numbers)) + "}"


class LeaseLost(Exception):
    """Another claim has the job, so nothing was stored."""


@dataclass(frozen=True, slots=True)
class Run:
    """The plan of a report over one snapshot. Partition n has the ids above `bounds[n]`, up to `bounds[n + 1]`.

    `posts_version`: of the posts in the snapshot; None: a writer was active. `restarts`: the snapshots that were lost before.
    """

    id: UUID
    snapshot: str
    snapshot_at: datetime
    posts_version: int | None
    bounds: list[int]
    restarts: int

    @property
    def partitions(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """The result of a partition; `words[n]` are those of `users[n]`. `lengths`: the histogram, None without one."""

    number: int
    posts: int
    users: list[int]
    words: list[int]
    lengths: list[int] | None = None
    length_posts: list[int] | None = None


def fence(job: Claimed) -> dict[str, object]:
    """The parameters of `HELD`."""
    return {"id": str(job.id), "version": job.version, "token": str(job.token)}


class ReportRuns:
    """Each method is one transaction or a few short ones; see `DatabasePool.call` for what the methods raise."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def load(self, job_id: UUID, timeout: float) -> Run | None:
        """The run of a job; None: it has none."""
        rows = await self._pool.fetch(_LOAD, timeout, job_id=str(job_id))
        return Run(**rows[0]) if rows else None

    async def create(self, job: Claimed, run: Run, timeout: float) -> None:
        """Replace the run of a job, and with it the results of its partitions. Raises `LeaseLost`."""
        await self._pool.execute(_DELETE, timeout, **fence(job))
        parameters = {
            "run_id": str(run.id), "snapshot": run.snapshot, "snapshot_at": run.snapshot_at, "restarts": run.restarts,
            "posts_version": run.posts_version, "bounds": array_literal(run.bounds),
        }  # fmt: skip
        if not await self._pool.value(_CREATE, timeout, **fence(job), **parameters):
            raise LeaseLost

    async def store(self, job: Claimed, run_id: UUID, partition: StoredPartition, timeout: float) -> None:
        """Store the result of a partition, unless it is stored. Raises `LeaseLost`."""
        parameters = {
            "run_id": str(run_id), "number": partition.number, "posts": partition.posts,
            "users": array_literal(partition.users), "words": array_literal(partition.words),
            "lengths": array_literal(partition.lengths), "length_posts": array_literal(partition.length_posts),
        }  # fmt: skip
        if not await self._pool.value(_STORE, timeout, **fence(job), **parameters):
            raise LeaseLost

    async def stored(self, run_id: UUID, timeout: float) -> AsyncIterator[StoredPartition]:
        """The results of a run's partitions that are stored, some at a time."""
        rows: Sequence[sa.RowMapping] = ()
        after = -1
        while after < 0 or len(rows) == READ_PARTITIONS:
            rows = await self._pool.fetch(_PARTITIONS, timeout, run_id=str(run_id), after=after, limit=READ_PARTITIONS)
            for row in rows:
                yield StoredPartition(**row)
            after = rows[-1]["number"] if rows else 0

    async def delete(self, job: Claimed, timeout: float) -> None:
        """Delete the run of a job with the results of its partitions, while the claim holds."""
        await self._pool.execute(_DELETE, timeout, **fence(job))
