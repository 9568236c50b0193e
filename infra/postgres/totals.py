"""Totals of reports: written under a claim, and visible once that claim has completed the job."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.report_runs import HELD, fence
from jobs.model import Claimed

BATCH = 10_000

Batch = tuple[Sequence[int], Sequence[int]]  # user ids and their words

# Totals that a dead worker has left under an earlier claim.
_FORGET = sa.text("""
DELETE FROM report_totals t USING jobs j WHERE j.id = :id AND j.version = :version AND j.claim_token = :token
    AND j.status = 'processing' AND t.job_id = j.id AND t.claim_token <> j.claim_token
""")

# `position` is null in a result that is ordered by user id.
_STORE = sa.text(f"""
WITH {HELD}, stored AS (
    INSERT INTO report_totals (job_id, claim_token, user_id, total_words, position)
    SELECT held.id, held.claim_token, t.user_id, t.total_words, CAST(:before AS integer) + t.n
    FROM held, unnest(CAST(:users AS integer[]), CAST(:words AS bigint[])) WITH ORDINALITY AS t(user_id, total_words, n)
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM held
""")  # noqa: S608  a constant

_PAGE = sa.text("""
SELECT t.user_id, t.total_words FROM jobs j JOIN report_totals t ON t.job_id = j.id AND t.claim_token = j.claim_token
WHERE j.id = :id AND j.status = 'completed' AND t.user_id > :after ORDER BY t.user_id LIMIT :limit
""")

_VISIBLE = """FROM jobs j JOIN report_totals t ON t.job_id = j.id AND t.claim_token = j.claim_token
WHERE j.id = :id AND j.status = 'completed'"""
_TOP = sa.text(f"SELECT t.user_id, t.total_words {_VISIBLE} ORDER BY t.total_words DESC, t.user_id LIMIT :limit")
_SUMS = sa.text(f"SELECT count(*) AS users, coalesce(sum(t.total_words), 0) AS words {_VISIBLE}")


@dataclass(frozen=True, slots=True)
class Summary:
    """A completed report: the numbers of its users and words, and the users with the most words."""

    users: int
    words: int
    top: list[tuple[int, int]]


class Totals:
    """Stores and reads totals in short transactions; see `DatabasePool.call` for what the methods raise."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def store(self, job: Claimed, batches: Iterable[Batch], timeout: float, *, ordered: bool = False) -> bool:
        """Store the totals of a result under a claim. False: the lease is lost, and nothing becomes visible.

        `ordered`: the order of the rows is that of the result; else it is ordered by user id.
        """
        await self._pool.execute(_FORGET, timeout, **fence(job))
        before = 0
        for users, words in batches:
            parameters = {"users": list(users), "words": list(words), "before": before if ordered else None}
            if not await self._pool.value(_STORE, timeout, **fence(job), **parameters):
                return False
            before += len(users)
        return True

    async def page(self, id_: UUID, after: int, limit: int, timeout: float) -> list[tuple[int, int]]:
        """At most `limit` pairs (user id, words) of a completed report, by user id after `after`."""
        rows = await self._pool.fetch(_PAGE, timeout, id=str(id_), after=after, limit=limit)
        return [(row["user_id"], row["total_words"]) for row in rows]

    async def summary(self, id_: UUID, limit: int, timeout: float) -> Summary:
        """The sums of a completed report, and its `limit` users with the most words."""
        (sums,) = await self._pool.fetch(_SUMS, timeout, id=str(id_))
        rows = await self._pool.fetch(_TOP, timeout, id=str(id_), limit=limit)
        return Summary(sums["users"], int(sums["words"]), [(row["user_id"], row["total_words"]) for row in rows])
