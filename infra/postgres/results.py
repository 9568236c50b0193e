"""Reads of results: a completed report's totals page by page, in its order, and its histogram.

Only the claim that completed a report decides its result. Results of releases before revision 0019 have totals alone: no row
in `report_results`, and no positions.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.reports import ReportParameters

BEFORE_ALL = -(2**31) - 1  # below every key of a total

_FIND = sa.text("""
SELECT j.claim_token, r.posts, r.users, r.words, r.snapshot_at, r.parameters, r.histogram, r.sha256
FROM jobs j LEFT JOIN report_results r ON r.job_id = j.id AND r.claim_token = j.claim_token
WHERE j.id = :id AND j.kind = 'report' AND j.status = 'completed'
""")

_OF_RESULT = "FROM report_totals t WHERE t.job_id = :id AND t.claim_token = :token"
_BY_USER = sa.text(f"""
SELECT t.user_id AS key, t.user_id, t.total_words {_OF_RESULT} AND t.user_id > :after ORDER BY t.user_id LIMIT :limit
""")
_BY_POSITION = sa.text(f"""
SELECT t.position AS key, t.user_id, t.total_words {_OF_RESULT} AND t.position > :after ORDER BY t.position LIMIT :limit
""")
_TOP = sa.text(f"""
SELECT t.user_id, t.user_id, t.total_words {_OF_RESULT} ORDER BY t.total_words DESC, t.user_id LIMIT :limit
""")
_SUMS = sa.text(f"SELECT count(*) AS users, coalesce(sum(t.total_words), 0) AS words {_OF_RESULT}")


class Total(NamedTuple):
    """The words of one user. `key` is the place of the row in its result: a page begins after a key."""

    key: int
    user_id: int
    words: int


@dataclass(frozen=True, slots=True)
class Sums:
    """The numbers of users and words in the counted posts; `limit` does not change them."""

    users: int
    words: int


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The result of a completed report.

    `histogram`: pairs of a number of words and the posts that have it; None: the report has none. `posts`, `sums`,
    `snapshot_at` and `sha256` (of the content) are None for results of older releases.
    """

    id: UUID
    claim_token: UUID
    parameters: ReportParameters
    posts: int | None = None
    sums: Sums | None = None
    snapshot_at: datetime | None = None
    histogram: list[tuple[int, int]] | None = None
    sha256: bytes | None = None

    @property
    def is_ordered_by_words(self) -> bool:
        return self.parameters.order == "words"


class Results:
    """Each method is one read; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def find(self, id_: UUID, timeout: float) -> ReportResult | None:
        """The result of a report; None: it is not completed, or does not exist."""
        rows = await self._pool.fetch(_FIND, timeout, id=str(id_))
        if not rows:
            return None
        row = rows[0]
        if row["parameters"] is None:
            return ReportResult(id_, row["claim_token"], ReportParameters())
        pairs = None if row["histogram"] is None else [(words, posts) for words, posts in row["histogram"]]
        parameters, sums = ReportParameters.from_body(row["parameters"]), Sums(row["users"], row["words"])
        sha256 = bytes(row["sha256"])
        return ReportResult(id_, row["claim_token"], parameters, row["posts"], sums, row["snapshot_at"], pairs, sha256)

    async def page(self, result: ReportResult, after: int, limit: int, timeout: float) -> list[Total]:
        """At most `limit` totals with keys above `after`, in the order of the result."""
        statement = _BY_POSITION if result.is_ordered_by_words else _BY_USER
        return await self._read(statement, result, timeout, after=after, limit=limit)

    async def top(self, result: ReportResult, limit: int, timeout: float) -> list[Total]:
        """The `limit` users with the most words; with equal words, by user id."""
        if result.is_ordered_by_words:
            return await self.page(result, BEFORE_ALL, limit, timeout)
        return await self._read(_TOP, result, timeout, limit=limit)

    async def sums(self, result: ReportResult, timeout: float) -> Sums:
        """The numbers of users and words. Reads all totals if an older release stored them."""
        if result.sums is not None:
            return result.sums
        (sums,) = await self._pool.fetch(_SUMS, timeout, id=str(result.id), token=str(result.claim_token))
        return Sums(sums["users"], int(sums["words"]))

    async def _read(self, statement: sa.TextClause, result: ReportResult, timeout: float, **values: int) -> list[Total]:
        parameters = {"id": str(result.id), "token": str(result.claim_token), **values}
        return await self._pool.call(
            lambda connection: [Total(*row) for row in connection.execute(statement, parameters)], timeout
        )
