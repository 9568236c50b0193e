"""Totals of reports: written under a claim, and a result once that claim has completed the job."""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.report_runs import HELD, array_literal, fence
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


class Totals:
    """Stores totals in short transactions; see `DatabasePool.call` for what the methods raise."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def store(self, job: Claimed, batches: Iterable[Batch], timeout: float, *, ordered: bool = False) -> bool:
        """Store the totals of a result under a claim. False: the lease is lost, and nothing becomes visible.

        `ordered`: the order of the rows is that of the result; else it is ordered by user id.
        """
        await self._pool.execute(_FORGET, timeout, **fence(job))
        before = 0
        for users, words in batches:
            arrays = {"users": array_literal(users), "words": array_literal(words)}
            parameters = {**arrays, "before": before if ordered else None}
            if not await self._pool.value(_STORE, timeout, **fence(job), **parameters):
                return False
            before += len(users)
        return True
