"""Claims: a worker takes a job under a fresh token, for the time of a lease."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.prepared import PreparedStatement
from infra.postgres.transitions.sql import in_list
from jobs.lifecycle import Cause, sources
from jobs.model import Delivery, Kind, Priority, WorkQueue


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Claim this job at this version, under this new token, for the time of the lease."""

    id: UUID
    version: int
    token: UUID
    lease_seconds: float


# The fields of `Claimed`; see `job_fields`.
_CLAIMED_COLUMNS = """j.id, j.version, j.claim_token AS token, j.revision, j.kind, j.client_id, j.provider, j.priority,
    j.destination, j.body, j.delivery, j.key_revision, j.attempts, j.tries, j.lost_leases,
    CAST(extract(epoch FROM clock_timestamp() - j.queued_at) AS float8) AS age_seconds, j.traceparent"""

# The rows are the fields of `ClaimRequest`.
# An operator may move a dead letter back to its work queue in the management UI; its claim begins a new revision.
CLAIM = PreparedStatement(f"""
WITH held AS (
    SELECT j.id, r.version, r.token, r.lease_seconds, j.status IN ({in_list(sources(Cause.REQUEUE))}) AS anew,
        j.status = 'failed' AS new_key
    FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, token uuid, lease_seconds float8)
    JOIN jobs j ON j.id = r.id AND j.version = r.version
    WHERE j.status IN ({in_list(sources(Cause.CLAIM))}) ORDER BY j.id FOR UPDATE OF j
)
UPDATE jobs j SET
    status = 'processing', version = j.version + 1, claim_token = token,
    lease_until = clock_timestamp() + lease_seconds * interval '1 second', updated_at = clock_timestamp(), finished_at = NULL,
    started = anew OR j.lost_leases = 0, worker_id = CAST(:worker AS bigint), worker_version = j.version + 1,
    revision = j.revision + CAST(anew AS int),
    key_revision = CASE WHEN new_key THEN j.revision + 1 ELSE j.key_revision END,
    attempts = CASE WHEN anew THEN 0 ELSE j.attempts END,
    tries = CASE WHEN anew THEN 0 ELSE j.tries END,
    lost_leases = CASE WHEN anew THEN 0 ELSE j.lost_leases END,
    queued_at = CASE WHEN anew THEN clock_timestamp() ELSE j.queued_at END,
    progress_done = NULL, progress_about = NULL, progress_detail = NULL
FROM held WHERE j.id = held.id AND j.version = held.version
RETURNING {_CLAIMED_COLUMNS}
""")  # noqa: S608  the interpolated parts are constants

CLAIMED_BEFORE = sa.text(f"""
SELECT {_CLAIMED_COLUMNS} FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, token uuid)
JOIN jobs j ON j.id = r.id AND j.version = r.version + 1 AND j.claim_token = r.token AND j.status = 'processing'
""")  # noqa: S608


def job_fields(kind: str, provider: str | None, priority: str, delivery: str, **fields: Any) -> dict[str, Any]:
    """The columns of a claimed job, its queue as one `WorkQueue`."""
    return {**fields, "queue": WorkQueue(Kind(kind), provider, Priority(priority)), "delivery": Delivery(delivery)}
