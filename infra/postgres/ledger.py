"""The ledger: the jobs table and what commits with it.

Every method is one transaction, and can be repeated after a lost connection with the same ids and tokens. The repetition waits
for the first one's row locks, matches nothing if that was committed, and reads its result back.
"""

import json
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import sqlalchemy as sa

from infra.postgres.errors import TryAgain
from infra.postgres.leadership import HELD_WORKERS
from infra.postgres.pool import DatabasePool
from infra.postgres.prepared import PreparedStatement
from infra.postgres.transitions import accept, apply, claim
from infra.postgres.transitions.accept import Accepted, KeyReused
from infra.postgres.transitions.apply import Applied, LateAcceptance
from infra.postgres.transitions.claim import ClaimRequest, job_fields
from infra.postgres.transitions.sql import in_list, to_json
from jobs.lifecycle import Cause, sources
from jobs.model import Claimed, LostLease, NewJob, Progress, Transition

Result = TypeVar("Result")

RENEW = sa.text("""
UPDATE jobs SET started = true, lease_until = clock_timestamp() + :lease * interval '1 second', updated_at = clock_timestamp(),
    progress_done = :done, progress_about = :about, progress_detail = CAST(:detail AS jsonb)
WHERE id = :id AND version = :version AND claim_token = :token AND status = 'processing'
""")

EXPIRED_LEASES = sa.text(f"""
SELECT id, version, claim_token AS token, kind, provider, priority, delivery, lost_leases, started FROM jobs
WHERE status IN ({in_list(sources(Cause.LEASE_LOST))}) AND lease_until < now() ORDER BY lease_until LIMIT :limit
FOR UPDATE SKIP LOCKED
""")  # noqa: S608  the interpolated part is a constant

# The range of leases excludes expired ones, and bounds the scan by the claims of one lease.
ORPHANS = sa.text(f"""
SELECT id, version, claim_token AS token, kind, provider, priority, delivery, lost_leases, started, worker_id FROM jobs
WHERE status IN ({in_list(sources(Cause.LEASE_LOST))}) AND lease_until >= now()
    AND worker_id IS NOT NULL AND worker_version = version AND worker_id <> ALL ({HELD_WORKERS})
ORDER BY lease_until LIMIT :limit
FOR UPDATE SKIP LOCKED
""")  # noqa: S608  the interpolated parts are constants

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
        self._options = {"grace": grace_seconds, "retain_body": retain_body}

    async def accept(self, jobs: Sequence[NewJob], timeout: float) -> list[Accepted | KeyReused]:
        """Insert jobs. A job whose id or key exists already gets the earlier answer.

        A key that another process is inserting is waited for, until that transaction ends.
        """
        before = (accept.ACCEPTED_BEFORE, accept.ACCEPTED_UNDER_KEY)
        found = await self._execute(accept.ACCEPT, before, jobs, accept.answer, timeout, key=("id",))
        answers = [answer for answer in found if answer is not None]
        if len(answers) < len(jobs):
            raise TryAgain("a key was deleted between two statements")
        return answers

    async def claim(
        self, requests: Sequence[ClaimRequest], timeout: float, worker_id: int | None = None
    ) -> list[Claimed | None]:
        """Set status `processing`, version + 1, lease, token and worker. None: the version is stale."""
        before = (claim.CLAIMED_BEFORE,)
        return await self._execute(
            claim.CLAIM, before, requests, lambda **row: Claimed(**job_fields(**row)), timeout, worker=worker_id
        )

    async def apply(self, transitions: Sequence[Transition], timeout: float) -> list[Applied | None]:
        """Record transitions, their attempts and the messages to publish. None: stale, the job has moved on."""
        return await self._execute(apply.APPLY, (apply.APPLIED_BEFORE,), transitions, apply.applied, timeout)

    async def accept_late(self, late: Sequence[LateAcceptance], timeout: float) -> list[Applied | None]:
        """Set jobs to `sent` whose claim has ended since. None: another claim has begun."""
        return await self._execute(apply.ACCEPT_LATE, (apply.ACCEPTED_LATE_BEFORE,), late, apply.applied, timeout)

    async def _execute(
        self,
        change_rows: PreparedStatement,
        read_back: Sequence[sa.TextClause],
        changes: Sequence[object],
        to_result: Callable[..., Result],
        timeout: float,
        key: tuple[str, ...] = ("id", "token"),
        **options: object,
    ) -> list[Result | None]:
        """Change rows. `read_back` reads what an earlier, unanswered try committed; None: stale."""
        of_change, of_row = attrgetter(*key), itemgetter(*key)

        def work(connection: sa.Connection) -> list[Result | None]:
            done: dict[object, Result] = {}

            def add(result: sa.CursorResult[Any]) -> None:
                columns = tuple(result.keys())
                for values in result:  # a dictionary costs a third of SQLAlchemy's mapping
                    row = dict(zip(columns, values, strict=True))
                    done[of_row(row)] = to_result(**row)

            add(change_rows.execute(connection, rows=to_json(changes), **self._options, **options))
            for statement in read_back:
                if missing := [change for change in changes if of_change(change) not in done]:
                    add(connection.execute(statement, {"rows": to_json(missing)}))
            return [done.get(of_change(change)) for change in changes]

        return await self._pool.call(work, timeout)

    async def renew(self, job: Claimed, lease_seconds: float, progress: Progress, timeout: float) -> bool:
        """Extend the lease of a running job, and write its progress. False: the lease is lost."""
        claim = {"id": job.id, "version": job.version, "token": job.token}
        detail = None if progress.detail is None else json.dumps(progress.detail)
        parameters = {"lease": lease_seconds, "done": progress.done, "about": progress.estimate, "detail": detail}
        return await self._pool.execute(RENEW, timeout, **claim, **parameters) == 1

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]:
        """Jobs whose lease has expired, oldest first. Locked rows are skipped."""
        return [LostLease(**job_fields(**row)) for row in await self._pool.fetch(EXPIRED_LEASES, timeout, limit=limit)]

    async def orphans(self, limit: int, timeout: float) -> list[LostLease]:
        """Jobs under a lease whose worker's lock is free. Locked rows are skipped."""
        return [LostLease(**job_fields(**row)) for row in await self._pool.fetch(ORPHANS, timeout, limit=limit)]

    async def forget_keys(self, older_seconds: float, limit: int, timeout: float) -> int:
        """Delete at most `limit` idempotency keys of that age, oldest first; returns how many."""
        return await self._pool.execute(FORGET_KEYS, timeout, older=older_seconds, limit=limit)

    async def clock(self, timeout: float) -> float:
        """Postgres' clock, in seconds since 1970."""
        return float(await self._pool.value(_CLOCK, timeout))

    def contact_seconds(self) -> float:
        return self._pool.contact_seconds()
