"""Acceptance: new jobs with their idempotency keys, tags and outbox rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.errors import TryAgain
from infra.postgres.transitions.sql import to_json
from jobs.model import NewJob


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job in the ledger; `created_at` by Postgres' clock.

    The job is new, at version 1. `replayed`: an earlier request under the same key created it.
    """

    id: UUID
    created_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The idempotency key belongs to another request; nothing was accepted."""


# An existing key creates no job. A key in an open transaction is waited for.
ACCEPT = sa.text("""
WITH r AS (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r(
        id uuid, client_id text, kind text, provider text, priority text, destination text, body text,
        delivery text, reference text, tags text[], metadata json, callback_url text, queue text, route text,
        key text, fingerprint text)
), named AS (
    INSERT INTO idempotency_keys (client_id, route, key, fingerprint, job_id)
    SELECT client_id, route, key, fingerprint, id FROM r WHERE key IS NOT NULL ORDER BY client_id, route, key
    ON CONFLICT DO NOTHING
    RETURNING job_id
), accepted AS (
    INSERT INTO jobs (
        id, client_id, kind, provider, priority, destination, body, delivery, reference, tags, metadata, callback_url)
    SELECT id, client_id, kind, provider, priority, destination, body, delivery, reference, tags, metadata, callback_url FROM r
    WHERE key IS NULL OR id IN (SELECT job_id FROM named) ORDER BY id
    ON CONFLICT (id) DO NOTHING
    RETURNING id, created_at
), tagged AS (
    INSERT INTO message_tags (client_id, tag, job_id)
    SELECT client_id, unnest(r.tags), id FROM accepted JOIN r USING (id) WHERE r.tags <> '{}' ON CONFLICT DO NOTHING
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at)
    SELECT id, 1, 'work', r.queue, created_at + :grace * interval '1 second' FROM accepted JOIN r USING (id)
)
SELECT id, id AS job_id, created_at, false AS replayed, true AS equal FROM accepted
""")

ACCEPTED_BEFORE = sa.text("""
SELECT id, id AS job_id, created_at, false AS replayed, true AS equal
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid) JOIN jobs USING (id)
""")

ACCEPTED_UNDER_KEY = sa.text("""
SELECT r.id, k.job_id, coalesce(j.created_at, k.created_at) AS created_at, true AS replayed,
    k.fingerprint = r.fingerprint AS equal
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, client_id text, route text, key text, fingerprint text)
JOIN idempotency_keys k ON k.client_id = r.client_id AND k.route = r.route AND k.key = r.key
LEFT JOIN jobs j ON j.id = k.job_id
""")


def accept(connection: sa.Connection, jobs: Sequence[NewJob], grace: float) -> list[Accepted | KeyReused]:
    """Insert the jobs. A job whose id or key exists already gets the earlier answer.

    A key that another process is inserting is waited for, until that transaction ends.
    """
    rows, done = [_row(job) for job in jobs], dict[UUID, Accepted | KeyReused]()
    for statement in (ACCEPT, ACCEPTED_BEFORE, ACCEPTED_UNDER_KEY):
        if missing := [row for row in rows if row["id"] not in done]:
            found = connection.execute(statement, {"rows": to_json(missing), "grace": grace})
            done |= {row.id: _answer(row) for row in found}
    if any(job.id not in done for job in jobs):
        raise TryAgain("a key was deleted between two statements")
    return [done[job.id] for job in jobs]


def _row(job: NewJob) -> dict[str, Any]:
    return {
        "id": job.id,
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
        "route": job.key and job.key.route,
        "key": job.key and job.key.key,
        "fingerprint": job.key and job.key.fingerprint,
    }


def _answer(row: Any) -> Accepted | KeyReused:
    return Accepted(row.job_id, row.created_at, row.replayed) if row.equal else KeyReused()
