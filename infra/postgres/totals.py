"""Totals of reports: written under a claim, and a result once that claim has completed the job."""

from collections.abc import Mapping
from itertools import islice

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from jobs.model import Claimed

BATCH = 10_000

# Totals that a dead worker has left under an earlier claim.
_FORGET = sa.text("""
DELETE FROM report_totals t USING jobs j WHERE j.id = :id AND j.version = :version AND j.claim_token = :token
    AND j.status = 'processing' AND t.job_id = j.id AND t.claim_token <> j.claim_token
""")

# Fenced by version and token, and repeatable.
_STORE = sa.text("""
WITH held AS (
    SELECT id, claim_token FROM jobs
    WHERE id = :id AND version = :version AND claim_token = :token AND status = 'processing' FOR SHARE
), stored AS (
    INSERT INTO report_totals (job_id, claim_token, user_id, total_words)
    SELECT held.id, held.claim_token, t.user_id, t.total_words
    FROM held, unnest(CAST(:users AS integer[]), CAST(:words AS bigint[])) AS t(user_id, total_words)
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM held
""")


class Totals:
    """Stores totals in short transactions; see `DatabasePool.call` for what the methods raise."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def store(self, job: Claimed, totals: Mapping[int, int], timeout: float) -> bool:
        """Store words by user id under a claim. False: the lease is lost, and nothing becomes visible."""
        fence = {"id": str(job.id), "version": job.version, "token": str(job.token)}
        await self._pool.execute(_FORGET, timeout, **fence)
        rows, stored = iter(totals.items()), True
        while stored and (batch := dict(islice(rows, BATCH))):
            parameters = {"users": list(batch), "words": list(batch.values())}
            stored = bool(await self._pool.value(_STORE, timeout, **fence, **parameters))
        return stored
