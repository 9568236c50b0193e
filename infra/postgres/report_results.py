"""Results of reports beside their totals: what was counted, and when. Equal reports on unchanged posts share a result."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.report_runs import HELD, LeaseLost, fence
from jobs.model import Claimed

COPY_ROWS = 10_000

# `last_value` alone does not tell the state before the first change from that after it.
_POSTS_VERSION = sa.text("SELECT last_value + CAST(is_called AS int) FROM posts_changes")

_SHARED = sa.text("""
SELECT r.job_id, r.claim_token AS token, r.posts, r.users, r.snapshot_at
FROM report_results r JOIN jobs j ON j.id = r.job_id AND j.claim_token = r.claim_token AND j.status = 'completed'
WHERE r.posts_version = :posts_version AND r.parameters = :parameters LIMIT 1
""")

_STORE = sa.text(f"""
WITH {HELD}, stored AS (
    INSERT INTO report_results (
        job_id, claim_token, posts, users, words, snapshot_at, parameters, posts_version, histogram, sha256)
    SELECT held.id, held.claim_token, :posts, :users, :words, CAST(:snapshot_at AS timestamptz), :parameters,
        CAST(:posts_version AS bigint), CAST(:histogram AS jsonb), :sha256
    FROM held ON CONFLICT DO NOTHING
)
SELECT count(*) FROM held
""")  # noqa: S608  a constant

_COPY_TOTALS = sa.text(f"""
WITH {HELD}, page AS (
    SELECT user_id, total_words, position FROM report_totals
    WHERE job_id = :source AND claim_token = :source_token AND user_id > :after ORDER BY user_id LIMIT :limit
), stored AS (
    INSERT INTO report_totals (job_id, claim_token, user_id, total_words, position)
    SELECT held.id, held.claim_token, page.user_id, page.total_words, page.position FROM held, page
    ON CONFLICT DO NOTHING
)
SELECT (SELECT count(*) FROM held) AS held, (SELECT max(user_id) FROM page) AS last
""")  # noqa: S608  a constant
_UNDO = sa.text(f"WITH {HELD} DELETE FROM report_totals t USING held WHERE t.job_id = held.id")  # noqa: S608  a constant
# A purge deletes a result with its totals in one transaction: while the result is there, each total was.
_COPY = sa.text(f"""
WITH {HELD}, source AS (
    SELECT * FROM report_results WHERE job_id = :source AND claim_token = :source_token
), stored AS (
    INSERT INTO report_results (
        job_id, claim_token, posts, users, words, snapshot_at, parameters, posts_version, histogram, sha256)
    SELECT held.id, held.claim_token, s.posts, s.users, s.words, s.snapshot_at, s.parameters, s.posts_version, s.histogram,
        s.sha256
    FROM held, source s ON CONFLICT DO NOTHING
)
SELECT (SELECT count(*) FROM held) AS held, (SELECT count(*) FROM source) AS found
""")  # noqa: S608  a constant


@dataclass(frozen=True, slots=True)
class Result:
    """What a result counts: `posts` posts of `users` users, with `words` words, at `snapshot_at`.

    `users` and `words` are those of all users, also if the totals are limited to some. `parameters`: see
    `ReportParameters.to_json`. `posts_version`: None: never shared. `histogram`: pairs of words and posts. `sha256`: of the
    content; see `consumers.reports.results`.
    """

    posts: int
    users: int
    words: int
    snapshot_at: datetime
    parameters: str
    posts_version: int | None
    histogram: list[tuple[int, int]] | None
    sha256: bytes


@dataclass(frozen=True, slots=True)
class SharedResult:
    """A completed report with equal parameters, of the same posts."""

    job_id: UUID
    token: UUID
    posts: int
    users: int
    snapshot_at: datetime


class ReportResults:
    """Each method is one transaction or a few short ones; see `DatabasePool.call` for what the methods raise."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def store(self, job: Claimed, result: Result, timeout: float) -> None:
        """Store the result of a claim; its totals are stored before. Raises `LeaseLost`."""
        parameters = {
            "posts": result.posts, "users": result.users, "words": result.words, "snapshot_at": result.snapshot_at,
            "parameters": result.parameters, "posts_version": result.posts_version, "sha256": result.sha256,
            "histogram": None if result.histogram is None else json.dumps(result.histogram),
        }  # fmt: skip
        if not await self._pool.value(_STORE, timeout, **fence(job), **parameters):
            raise LeaseLost

    async def find_shared(self, parameters: str, timeout: float) -> SharedResult | None:
        """A result with equal parameters of the posts as they are now; None: there is none."""
        version = await self._pool.value(_POSTS_VERSION, timeout)
        rows = await self._pool.fetch(_SHARED, timeout, posts_version=version, parameters=parameters)
        return SharedResult(**rows[0]) if rows else None

    async def copy(self, job: Claimed, source: SharedResult, timeout: float) -> bool:
        """Copy a result. False: it was purged meanwhile, and the job has no result. Raises `LeaseLost`."""
        of_source = {"source": str(source.job_id), "source_token": str(source.token)}
        after: int | None = -(2**31) - 1
        while after is not None:
            parameters = {**fence(job), **of_source, "after": after, "limit": COPY_ROWS}
            (row,) = await self._pool.fetch(_COPY_TOTALS, timeout, **parameters)
            if not row["held"]:
                raise LeaseLost
            after = row["last"]
        (row,) = await self._pool.fetch(_COPY, timeout, **fence(job), **of_source)
        if not row["held"]:
            raise LeaseLost
        if not row["found"]:
            await self._pool.execute(_UNDO, timeout, **fence(job))
        return bool(row["found"])
