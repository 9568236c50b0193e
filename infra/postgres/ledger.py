"""The ledger: the jobs table and what commits with it.

Every method is one transaction, and can be repeated after a lost connection with the same ids and tokens. The repetition waits
for the first one's row locks, matches nothing if that was committed, and reads its result back.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.accept import Accepted, KeyReused, accept
from infra.postgres.transitions.apply import apply
from infra.postgres.transitions.batch import Applied
from infra.postgres.transitions.callbacks import in_list
from infra.postgres.transitions.claim import ClaimRequest, claim
from infra.postgres.transitions.late import LateAcceptance, accept_late
from jobs.lifecycle import Cause, sources
from jobs.model import Claimed, Delivery, Kind, LostLease, NewJob, Priority, Progress, Transition, WorkQueue

RENEW = sa.text("""
UPDATE jobs SET started = true, lease_until = clock_timestamp() + :lease * interval '1 second', updated_at = clock_timestamp(),
    progress_done = :done, progress_about = :about
WHERE id = :id AND version = :version AND claim_token = :token AND status = 'processing'
""")

EXPIRED_LEASES = sa.text(f"""
SELECT id, version, claim_token, kind, provider, priority, delivery, lost_leases, started FROM jobs
WHERE status IN ({in_list(sources(Cause.LEASE_LOST))}) AND lease_until < now() ORDER BY lease_until LIMIT :limit
FOR UPDATE SKIP LOCKED
""")  # noqa: S608  the interpolated part is a constant

# Bounded, and past rows that somebody holds: a purge never makes anybody wait.
FORGET_KEYS = sa.text("""
DELETE FROM idempotency_keys WHERE (client_id, route, key) IN (
    SELECT client_id, route, key FROM idempotency_keys WHERE created_at < now() - :older * interval '1 second'
    ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
""")

_CLOCK = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8)")


class Ledger:
    """The transitions and the leases. See `DatabasePool.call` for what the methods raise.

    `grace_seconds`: the head start of the committing process over the relay. Without `retain_body` the body of a message is
    deleted once it is sent.
    """

    def __init__(self, pool: DatabasePool, *, grace_seconds: float, retain_body: bool = True):
        self._pool = pool
        self._grace = grace_seconds
        self._retain_body = retain_body

    async def accept(self, jobs: Sequence[NewJob], timeout: float) -> list[Accepted | KeyReused]:
        """See `transitions.accept`."""
        return await self._pool.call(lambda connection: accept(connection, jobs, self._grace), timeout)

    async def claim(self, requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        """See `transitions.claim`."""
        return await self._pool.call(lambda connection: claim(connection, requests), timeout)

    async def apply(self, transitions: Sequence[Transition], timeout: float) -> list[Applied | None]:
        """See `transitions.apply`."""
        return await self._pool.call(
            lambda connection: apply(connection, transitions, grace_seconds=self._grace, retain_body=self._retain_body), timeout
        )

    async def accept_late(self, late: Sequence[LateAcceptance], timeout: float) -> list[Applied | None]:
        """See `transitions.late`."""
        return await self._pool.call(
            lambda connection: accept_late(connection, late, grace_seconds=self._grace, retain_body=self._retain_body), timeout
        )

    async def renew(self, job: Claimed, lease_seconds: float, progress: Progress, timeout: float) -> bool:
        """Extend the lease of a running job, and write its progress. False: the lease is lost."""
        parameters = {
            "id": str(job.id),
            "version": job.version,
            "token": str(job.token),
            "lease": lease_seconds,
            "done": progress.done,
            "about": progress.estimate,
        }
        return await self._pool.call(lambda connection: connection.execute(RENEW, parameters).rowcount == 1, timeout)

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]:
        """Jobs whose lease has expired, oldest first. Locked rows are skipped."""

        def work(connection: sa.Connection) -> list[LostLease]:
            return [_lost(row) for row in connection.execute(EXPIRED_LEASES, {"limit": limit})]

        return await self._pool.call(work, timeout)

    async def forget_keys(self, older_seconds: float, limit: int, timeout: float) -> int:
        """Delete at most `limit` idempotency keys of that age, oldest first; returns how many."""
        parameters = {"older": older_seconds, "limit": limit}
        return await self._pool.call(lambda connection: connection.execute(FORGET_KEYS, parameters).rowcount, timeout)

    async def clock(self, timeout: float) -> float:
        """Postgres' clock, in seconds since 1970."""
        return await self._pool.call(lambda connection: float(connection.execute(_CLOCK).scalar_one()), timeout)

    def contact_seconds(self) -> float:
        return self._pool.contact_seconds()


def _lost(row: sa.Row[tuple[object, ...]]) -> LostLease:
    queue = WorkQueue(Kind(row.kind), row.provider, Priority(row.priority))
    return LostLease(row.id, row.version, row.claim_token, queue, Delivery(row.delivery), row.lost_leases, row.started)
