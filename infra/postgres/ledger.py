"""The ledger's transitions: accept, claim, apply. Each is one statement for a whole batch, so it commits whole or not at all.

Each can be repeated after a lost connection with the same ids and tokens: the repetition waits on the first one's row locks,
matches nothing if that was committed, and is then read back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson
import sqlalchemy as sa

from infra.postgres.errors import TryAgain
from infra.postgres.pool import DatabasePool
from infra.postgres.statements import (
    ACCEPT,
    ACCEPT_LATE,
    ACCEPTED_BEFORE,
    ACCEPTED_LATE_BEFORE,
    ACCEPTED_UNDER_KEY,
    APPLIED_BEFORE,
    APPLY,
    CLAIM,
    CLAIMED_BEFORE,
    EXPIRED_LEASES,
    FORGET_KEYS,
    RENEW,
)
from jobs.lifecycle import Status
from jobs.model import Claimed, Delivery, Kind, LostLease, NewJob, Priority, Progress, Transition, WorkQueue
from jobs.wire import Pointer

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that is now in the ledger; `created_at` by Postgres' clock.

    It is new, at version 1, unless it is `replayed`: an earlier request under the same key has made it.
    """

    id: UUID
    created_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The idempotency key was used before, for another request; nothing was accepted."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Take this job at this version, under this fresh token, for so long."""

    pointer: Pointer
    token: UUID
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class LateAcceptance:
    """The provider accepted this job of a claim whose lease had been lost by then."""

    id: UUID
    token: UUID
    provider_code: int | None
    provider_message_id: str | None


@dataclass(frozen=True, slots=True)
class Applied:
    """A transition that is now in the ledger: the new version, and whether a copy (with `headers`) is to be published.

    `callback`: the job, at version 1, that tells the client of it.
    """

    id: UUID
    version: int
    status: Status
    kind: Kind
    client_id: str
    publish: bool
    headers: dict[str, str | int] | None
    callback: UUID | None = None


class Ledger:
    """The jobs table and what commits with it. Every method is one transaction; see `DatabasePool.call` for what it raises.

    `grace_seconds` is the head start that the committing process has to publish before the relay does. Without `retain_body`
    the body of a message is forgotten once it is sent.
    """

    def __init__(self, pool: DatabasePool, *, grace_seconds: float, retain_body: bool = True):
        self._pool = pool
        self._grace = grace_seconds
        self._retain_body = retain_body

    async def accept(self, new: Sequence[NewJob], timeout: float) -> list[Accepted | KeyReused]:
        """Insert jobs and their outbox rows; ids and keys that are there already are answered as they are.

        Under an equal key that another process is inserting, it waits for that one's commit.
        """
        rows = [
            {
                "id": str(job.id),
                "client_id": job.client_id,
                "kind": job.queue.kind,
                "provider": job.queue.provider,
                "priority": job.queue.priority,
                "destination": job.destination,
                "body": job.body,
                "delivery": job.delivery,
                "reference": job.reference,
                "tags": job.tags,
                "metadata": job.metadata,
                "callback_url": job.callback_url,
                "queue": job.queue.name,
                "grace": self._grace,
                "route": job.key and job.key.route,
                "key": job.key and job.key.key,
                "fingerprint": job.key and job.key.fingerprint,
            }
            for job in new
        ]

        def work(connection: sa.Connection) -> dict[UUID, Accepted | KeyReused]:
            done = _accepted(connection.execute(ACCEPT, {"rows": _json(rows)}))
            if missing := _without(rows, done):
                done |= _accepted(connection.execute(ACCEPTED_BEFORE, {"ids": [row["id"] for row in missing]}))
            if missing := _without(missing, done):
                done |= dict(map(_under_key, connection.execute(ACCEPTED_UNDER_KEY, {"rows": _json(missing)})))
            if _without(missing, done):
                raise TryAgain("a key was forgotten between two looks at it")
            return done

        done = await self._pool.call(work, timeout)
        return [done[job.id] for job in new]

    async def forget_keys(self, older_seconds: float, limit: int, timeout: float) -> int:
        """Delete at most `limit` idempotency keys that are so old, the oldest first; returns how many."""
        parameters = {"older": older_seconds, "limit": limit}
        return await self._pool.call(lambda connection: connection.execute(FORGET_KEYS, parameters).rowcount, timeout)

    async def claim(self, requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        """Take jobs for work: status `processing`, version + 1, lease and token set. None: stale, nothing to do."""
        rows = [
            {"id": str(r.pointer.id), "version": r.pointer.version, "token": str(r.token), "lease": r.lease_seconds}
            for r in requests
        ]

        def work(connection: sa.Connection) -> dict[tuple[UUID, UUID], Claimed]:
            return _execute_or_read_back(connection, CLAIM, CLAIMED_BEFORE, rows, _claimed)

        done = await self._pool.call(work, timeout)
        return [done.get((r.pointer.id, r.token)) for r in requests]

    async def apply(self, transitions: Sequence[Transition], timeout: float) -> list[Applied | None]:
        """Record transitions, their attempts and what must be published. None: stale, the job has moved on."""
        rows = [self._transition_row(t) for t in transitions]

        def work(connection: sa.Connection) -> dict[tuple[UUID, UUID], Applied]:
            tokens = {t.id: t.token for t in transitions}
            return _execute_or_read_back(connection, APPLY, APPLIED_BEFORE, rows, lambda row: _applied(row, tokens))

        done = await self._pool.call(work, timeout)
        return [done.get((t.id, t.token)) for t in transitions]

    async def accept_late(self, late: Sequence[LateAcceptance], timeout: float) -> list[Applied | None]:
        """Jobs taken back from a worker to whom the provider then said that it has accepted; None: tried again since."""
        rows = [
            {
                "id": str(each.id),
                "token": str(each.token),
                "provider_code": each.provider_code,
                "provider_message_id": each.provider_message_id,
                "grace": self._grace,
                "forget": not self._retain_body,
            }
            for each in late
        ]

        def work(connection: sa.Connection) -> dict[tuple[UUID, UUID], Applied]:
            tokens = {each.id: each.token for each in late}
            return _execute_or_read_back(connection, ACCEPT_LATE, ACCEPTED_LATE_BEFORE, rows, lambda row: _applied(row, tokens))

        done = await self._pool.call(work, timeout)
        return [done.get((each.id, each.token)) for each in late]

    async def renew(self, job: Claimed, lease_seconds: float, progress: Progress, timeout: float) -> bool:
        """Prolong the lease of a job that is being worked on, begun at the latest now; False: it is not ours any more."""
        parameters = {
            "id": str(job.id),
            "version": job.version,
            "token": str(job.token),
            "lease": lease_seconds,
            "done": progress.done,
            "about": progress.about,
        }
        return await self._pool.call(lambda connection: connection.execute(RENEW, parameters).rowcount == 1, timeout)

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]:
        """Jobs whose worker let the lease run out, oldest first; those being moved by somebody else are passed over."""

        def work(connection: sa.Connection) -> list[LostLease]:
            return [_lost(row) for row in connection.execute(EXPIRED_LEASES, {"limit": limit})]

        return await self._pool.call(work, timeout)

    async def clock(self, timeout: float) -> float:
        """Postgres' clock, in seconds since 1970."""
        statement = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8)")
        return await self._pool.call(lambda connection: float(connection.execute(statement).scalar_one()), timeout)

    def contact_seconds(self) -> float:
        return self._pool.contact_seconds()

    def _transition_row(self, t: Transition) -> dict[str, Any]:
        # A copy that is due at once has the committing process' head start; a delayed one is the relay's from the start.
        grace = self._grace if t.delay_seconds == 0 else 0.0
        attempt = t.attempt
        return {
            "id": str(t.id),
            "version": t.version,
            "token": str(t.token),
            "status": t.to,
            "reason": t.reason,
            "tried": attempt is not None,
            "charged": attempt is not None and attempt.charged,
            "lost": t.lost_lease,
            "counted": t.counts_as_lost,
            "outcome": attempt and attempt.outcome,
            "attempt_reason": attempt and attempt.reason,
            "provider_code": attempt and attempt.provider_code,
            "provider_message_id": t.provider_message_id,
            "ran": attempt and attempt.ran_seconds,
            "delay": t.delay_seconds,
            "grace": grace,
            "route": t.route,
            "queue": t.queue,
            "forget": t.to is Status.SENT and not self._retain_body,
        }


def _execute_or_read_back(
    connection: sa.Connection,
    statement: sa.TextClause,
    before: sa.TextClause,
    rows: list[dict[str, Any]],
    read: Callable[[Any], tuple[tuple[UUID, UUID], Row]],
) -> dict[tuple[UUID, UUID], Row]:
    """Do the statement, then look for what it did not match among what an earlier try may have committed."""
    done = dict(map(read, connection.execute(statement, {"rows": _json(rows)})))
    missing = [row for row in rows if (UUID(row["id"]), UUID(row["token"])) not in done]
    if missing:
        done |= dict(map(read, connection.execute(before, {"rows": _json(missing)})))
    return done


def _json(rows: list[dict[str, Any]]) -> str:
    return orjson.dumps(rows).decode()


def _without(rows: list[dict[str, Any]], done: Mapping[UUID, object]) -> list[dict[str, Any]]:
    return [row for row in rows if UUID(row["id"]) not in done]


def _accepted(rows: Any) -> dict[UUID, Accepted | KeyReused]:
    return {row.id: Accepted(row.id, row.created_at) for row in rows}


def _under_key(row: Any) -> tuple[UUID, Accepted | KeyReused]:
    return row.asked, Accepted(row.id, row.created_at, replayed=True) if row.equal else KeyReused()


def _claimed(row: Any) -> tuple[tuple[UUID, UUID], Claimed]:
    job = Claimed(
        id=row.id,
        version=row.version,
        token=row.claim_token,
        revision=row.revision,
        client_id=row.client_id,
        queue=_queue(row),
        destination=row.destination,
        body=row.body,
        delivery=Delivery(row.delivery),
        key_revision=row.key_revision,
        attempts=row.attempts,
        tries=row.tries,
        lost_leases=row.lost_leases,
        age_seconds=row.age_seconds,
    )
    return (job.id, job.token), job


def _applied(row: Any, tokens: dict[UUID, UUID]) -> tuple[tuple[UUID, UUID], Applied]:
    status, kind = Status(row.status), Kind(row.kind)
    step = Applied(row.id, row.version, status, kind, row.client_id, row.publish, row.headers, row.callback)
    return (row.id, tokens[row.id]), step


def _lost(row: Any) -> LostLease:
    return LostLease(row.id, row.version, row.claim_token, _queue(row), Delivery(row.delivery), row.lost_leases, row.started)


def _queue(row: Any) -> WorkQueue:
    return WorkQueue(Kind(row.kind), row.provider, Priority(row.priority))
