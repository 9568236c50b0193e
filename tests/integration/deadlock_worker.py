"""One of several processes that claim and release the same jobs, each batch in an order of its own.

Prints how often Postgres found a deadlock.
"""

import asyncio
import random
import sys
from uuid import UUID

from infra.postgres.errors import TryAgain
from infra.postgres.job_reads import JobReads
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from jobs.decision import decide
from jobs.outcome import NOT_STARTED
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from tests.support.factories import claim_request


async def work(url: str, seed: int, rounds: int, ids: list[UUID]) -> int:
    """Claim every free job at its current version, so that all processes compete for the same rows."""
    pool = DatabasePool(url, name="deadlocks", threads=2)
    ledger, outbox, queries, draw, deadlocks = (
        Ledger(pool, grace_seconds=0),
        Outbox(pool),
        JobReads(pool),
        random.Random(seed),
        0,
    )
    for _ in range(rounds):
        known = [job for job in await queries.statuses(ids, 20) if job is not None]
        draw.shuffle(known)
        try:
            claims = await ledger.claim([claim_request(job.id, job.version) for job in known], 20)
            steps = [decide(job, NOT_STARTED, RetryPolicy(), ran_seconds=0, jitter=0) for job in claims if job is not None]
            if steps:
                await ledger.apply(steps, 20)
                await outbox.delete([Pointer(step.id, step.version + 1) for step in steps], 20)
        except TryAgain as error:
            deadlocks += "deadlock" in str(error)
    pool.close()
    return deadlocks


if __name__ == "__main__":
    sys.stdout.write(str(asyncio.run(work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [UUID(i) for i in sys.argv[4:]]))))
