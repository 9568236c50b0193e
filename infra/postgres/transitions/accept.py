"""Acceptance: new jobs with their idempotency keys, tags and outbox rows."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.prepared import PreparedStatement
from infra.postgres.transitions.sql import queue_name


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


# The rows are the fields of `NewJob`. An existing key creates no job. A key in an open transaction is waited for.
ACCEPT = PreparedStatement(f"""
WITH r AS (
    SELECT n.id, n.client_id, q.*, n.destination, n.body, n.delivery, n.reference, n.tags, n.metadata, n.callback_url,
        n.traceparent, k.*
    FROM json_to_recordset(CAST(:rows AS json)) AS n(
        id uuid, client_id text, queue json, destination text, body text, delivery text, reference text, tags text[],
        metadata json, key json, callback_url text, traceparent text)
    CROSS JOIN json_to_record(n.queue) AS q(kind text, provider text, priority text)
    CROSS JOIN json_to_record(n.key) AS k(route text, key text, fingerprint text)
), named AS (
    INSERT INTO idempotency_keys (client_id, route, key, fingerprint, job_id)
    SELECT client_id, route, key, fingerprint, id FROM r WHERE key IS NOT NULL ORDER BY client_id, route, key
    ON CONFLICT DO NOTHING
    RETURNING job_id
), accepted AS (
    INSERT INTO jobs (
        id, client_id, kind, provider, priority, destination, body, delivery, reference, tags, metadata, callback_url,
        traceparent)
    SELECT id, client_id, kind, provider, priority, destination, body, delivery, reference, tags, metadata, callback_url,
        traceparent FROM r
    WHERE key IS NULL OR id IN (SELECT job_id FROM named) ORDER BY id
    ON CONFLICT (id) DO NOTHING
    RETURNING id, created_at
), tagged AS (
    INSERT INTO message_tags (client_id, tag, job_id)
    SELECT client_id, unnest(r.tags), id FROM accepted JOIN r USING (id) WHERE r.tags <> '{{}}' ON CONFLICT DO NOTHING
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, traceparent)
    SELECT id, 1, 'work', {queue_name("r.kind", "r.provider", "r.priority")}, created_at + :grace * interval '1 second',
        r.traceparent
    FROM accepted JOIN r USING (id)
)
SELECT id, id AS job_id, created_at, false AS replayed, true AS equal FROM accepted
""")  # noqa: S608  the interpolated part is a constant

ACCEPTED_BEFORE = sa.text("""
SELECT id, id AS job_id, created_at, false AS replayed, true AS equal
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid) JOIN jobs USING (id)
""")

ACCEPTED_UNDER_KEY = sa.text("""
SELECT n.id, k.job_id, coalesce(j.created_at, k.created_at) AS created_at, true AS replayed,
    k.fingerprint = r.fingerprint AS equal
FROM json_to_recordset(CAST(:rows AS json)) AS n(id uuid, client_id text, key json)
CROSS JOIN json_to_record(n.key) AS r(route text, key text, fingerprint text)
JOIN idempotency_keys k ON k.client_id = n.client_id AND k.route = r.route AND k.key = r.key
LEFT JOIN jobs j ON j.id = k.job_id
""")


def answer(job_id: UUID, created_at: datetime, replayed: bool, equal: bool, **_: UUID) -> Accepted | KeyReused:
    return Accepted(job_id, created_at, replayed) if equal else KeyReused()
