"""Acceptance: new jobs with their idempotency keys, tags and outbox rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.errors import TryAgain
from infra.postgres.transitions.batch import to_json
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
        delivery text, reference text, tags text[], metadata json, callback_url text, queue text, grace float8,
        route text, key text, fingerprint text)
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
    SELECT id, 1, 'work', r.queue, created_at + r.grace * interval '1 second' FROM accepted JOIN r USING (id)
)
SELECT id, created_at FROM accepted
""")

ACCEPTED_BEFORE = sa.text("SELECT id, created_at FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")

ACCEPTED_UNDER_KEY = sa.text("""
SELECT r.id AS requested, k.job_id AS id, coalesce(j.created_at, k.created_at) AS created_at,
    k.fingerprint = r.fingerprint AS equal
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, client_id text, route text, key text, fingerprint text)
JOIN idempotency_keys k ON k.client_id = r.client_id AND k.route = r.route AND k.key = r.key
LEFT JOIN jobs j ON j.id = k.job_id
""")


def accept(connection: sa.Connection, jobs: Sequence[NewJob], grace_seconds: float) -> list[Accepted | KeyReused]:
    """Insert the jobs. A job whose id or key exists already gets the earlier answer.

    A key that another process is inserting is waited for, until that transaction ends.
    """
    rows = [_row(job, grace_seconds) for job in jobs]
    done = _accepted(connection.execute(ACCEPT, {"rows": to_json(rows)}))
    if missing := _without(rows, done):
        done |= _accepted(connection.execute(ACCEPTED_BEFORE, {"ids": [row["id"] for row in missing]}))
    if missing := _without(missing, done):
        done |= dict(map(_under_key, connection.execute(ACCEPTED_UNDER_KEY, {"rows": to_json(missing)})))
    if _without(missing, done):
        raise TryAgain("a key was deleted between two statements")
    return [done[job.id] for job in jobs]


def _row(job: NewJob, grace_seconds: float) -> dict[str, Any]:
    return {
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
        "grace": grace_seconds,
        "route": job.key and job.key.route,
        "key": job.key and job.key.key,
        "fingerprint": job.key and job.key.fingerprint,
    }


def _without(rows: list[dict[str, Any]], done: Mapping[UUID, object]) -> list[dict[str, Any]]:
    return [row for row in rows if UUID(row["id"]) not in done]


def _accepted(rows: Any) -> dict[UUID, Accepted | KeyReused]:
    return {row.id: Accepted(row.id, row.created_at) for row in rows}


def _under_key(row: Any) -> tuple[UUID, Accepted | KeyReused]:
    return row.requested, Accepted(row.id, row.created_at, replayed=True) if row.equal else KeyReused()
