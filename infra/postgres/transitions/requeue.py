"""Requeue: dead letters begin a new revision, for the same provider or another."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.transitions.batch import to_json
from infra.postgres.transitions.callbacks import in_list
from jobs.lifecycle import Cause, sources
from jobs.model import WorkQueue
from jobs.wire import Pointer

# An unpublished message of the dead letter is deleted.
REQUEUE = sa.text(f"""
WITH held AS (
    SELECT j.id, r.version, r.provider, r.queue, j.status = 'failed' AS new_key
    FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, provider text, queue text)
    JOIN jobs j ON j.id = r.id AND j.version = r.version
    WHERE j.status IN ({in_list(sources(Cause.REQUEUE))}) ORDER BY j.id FOR UPDATE OF j
), requeued AS (
    UPDATE jobs j SET
        status = 'queued', version = j.version + 1, revision = j.revision + 1, provider = held.provider,
        key_revision = CASE WHEN new_key THEN j.revision + 1 ELSE j.key_revision END,
        attempts = 0, tries = 0, lost_leases = 0, reason = NULL, finished_at = NULL,
        queued_at = clock_timestamp(), due_at = clock_timestamp(), updated_at = clock_timestamp()
    FROM held WHERE j.id = held.id AND j.version = held.version
    RETURNING j.id, j.version, held.queue
), unneeded AS (
    DELETE FROM outbox o USING requeued WHERE o.job_id = requeued.id AND o.version < requeued.version
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at) SELECT id, version, 'work', queue, now() FROM requeued
)
SELECT id FROM requeued
""")  # noqa: S608  the interpolated part is a constant


def requeue(connection: sa.Connection, letters: Sequence[tuple[Pointer, WorkQueue]]) -> set[UUID]:
    """Queue each letter for its work queue; returns the ids. A letter that has moved on since it was read is left."""
    rows = [
        {"id": str(letter.id), "version": letter.version, "provider": queue.provider, "queue": queue.name}
        for letter, queue in letters
    ]
    return {row.id for row in connection.execute(REQUEUE, {"rows": to_json(rows)})}
