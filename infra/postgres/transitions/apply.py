"""The end of a claim: its outcome, or a lost lease, with its attempt, its outbox row and its callback; or a late acceptance."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.leadership import is_free
from infra.postgres.prepared import PreparedStatement
from infra.postgres.transitions.sql import CALLBACK_COLUMNS, callbacks_of, in_list
from jobs.lifecycle import ENDS, Cause, Status, sources
from jobs.model import Kind


@dataclass(frozen=True, slots=True)
class Applied:
    """A committed transition. `publish`: whether its message, with `headers`, is to be published.

    `callback`: the callback job, at version 1, that the transition made. `traceparent`: of the job.
    """

    id: UUID
    version: int
    status: Status
    kind: Kind
    client_id: str
    publish: bool
    headers: dict[str, str | int] | None
    callback: UUID | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class LateAcceptance:
    """The provider accepted the job after the lease of this claim had expired."""

    id: UUID
    token: UUID
    provider_code: int | None
    provider_message_id: str | None


# The headers of a dead letter in the management UI. Milliseconds, because AMQP loses a float's precision.
DEAD_HEADERS = """jsonb_build_object(
    'kind', kind, 'provider', provider, 'reason', reason, 'last_reason', attempt_reason, 'provider_code', provider_code,
    'attempts', attempts,
    'revision', revision, 'created_at_ms', CAST(extract(epoch FROM created_at) * 1000 AS bigint),
    'failed_at_ms', CAST(extract(epoch FROM updated_at) * 1000 AS bigint))"""

# A lease is lost if it has expired, or its worker's lock is free. CASE: only then the lock is tried.
_MAY_END = f"""CASE WHEN r.cause <> '{Cause.LEASE_LOST}' OR j.lease_until < now() THEN true
        ELSE j.worker_version = j.version AND {is_free("j.worker_id")} END"""

# The rows are the fields of `Transition`. A message that is due at once has the committing process' head start. The relay
# publishes a delayed one when it is due.
APPLY = PreparedStatement(f"""
WITH held AS (
    SELECT r.*, a.outcome, a.charged, a.reason AS attempt_reason, a.provider_code, a.ran_seconds
    FROM json_to_recordset(CAST(:rows AS json)) AS r(
        id uuid, version int, token uuid, "to" text, cause text, attempt json, reason text, provider_message_id text,
        delay_seconds float8, route text, queue text, counts_as_lost boolean)
    CROSS JOIN json_to_record(r.attempt) AS a(
        outcome text, charged boolean, reason text, provider_code int, ran_seconds float8)
    JOIN jobs j ON j.id = r.id AND j.version = r.version AND j.claim_token = r.token
    WHERE j.status IN ({in_list(sources(Cause.ACCEPTED))}) AND {_MAY_END}
    ORDER BY j.id FOR UPDATE OF j
), applied AS (
    UPDATE jobs j SET
        status = held."to", version = j.version + 1, reason = held.reason, lease_until = NULL,
        attempts = j.attempts + CAST(coalesce(charged, false) AS int), tries = j.tries + CAST(outcome IS NOT NULL AS int),
        lost_leases = j.lost_leases + CAST(counts_as_lost AS int),
        provider_message_id = coalesce(held.provider_message_id, j.provider_message_id),
        body = CASE WHEN held."to" = 'sent' AND j.kind = 'message' AND NOT :retain_body THEN NULL ELSE j.body END,
        due_at = clock_timestamp() + delay_seconds * interval '1 second', updated_at = clock_timestamp(),
        finished_at = CASE WHEN held."to" IN ({in_list(ENDS)}) THEN clock_timestamp() END
    FROM held WHERE j.id = held.id AND j.version = held.version
    RETURNING {CALLBACK_COLUMNS}, j.revision, j.tries, j.claim_token AS token, j.due_at, j.provider,
        charged, outcome, attempt_reason, provider_code, ran_seconds, route, queue,
        CASE WHEN delay_seconds = 0 THEN :grace ELSE 0 END AS grace
), attempted AS (
    INSERT INTO attempts (job_id, revision, n, claim_token, charged, outcome, reason, provider_code, ran_seconds)
    SELECT id, revision, tries, token, charged, outcome, attempt_reason, provider_code, ran_seconds FROM applied
    WHERE outcome IS NOT NULL
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, headers, traceparent)
    SELECT id, version, route, queue, due_at + grace * interval '1 second', CASE WHEN route = 'dead' THEN {DEAD_HEADERS} END,
        traceparent
    FROM applied WHERE queue IS NOT NULL
), {callbacks_of("applied")}
SELECT id, token, version, status, kind, client_id, queue IS NOT NULL AS publish,
    CASE WHEN route = 'dead' THEN {DEAD_HEADERS} END AS headers,
    (SELECT c.id FROM callbacks c WHERE c.parent_id = applied.id) AS callback, traceparent
FROM applied
""")  # noqa: S608

# A recorded transition left its token in `attempts`, except a release: that left the job queued, one version further, under the
# token. A lost lease is the reaper's transition. The relay publishes the callback.
APPLIED_BEFORE = sa.text(f"""
SELECT j.id, r.token, r.version + 1 AS version, r."to" AS status, j.kind, j.client_id, o.job_id IS NOT NULL AS publish,
    o.headers, NULL AS callback, j.traceparent
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, token uuid, "to" text, cause text)
JOIN jobs j ON j.id = r.id
LEFT JOIN attempts t ON t.job_id = r.id AND t.claim_token = r.token
LEFT JOIN outbox o ON o.job_id = r.id AND o.version = r.version + 1
WHERE (t.claim_token IS NOT NULL AND (t.outcome = 'lease_lost') = (r.cause = '{Cause.LEASE_LOST}'))
   OR (r."to" = 'queued' AND j.version = r.version + 1 AND j.status = 'queued' AND j.claim_token = r.token)
""")  # noqa: S608

# The rows are the fields of `LateAcceptance`. A later claim has another token, so its job does not match.
ACCEPT_LATE = PreparedStatement(f"""
WITH held AS (
    SELECT j.id, r.token, r.provider_code, r.provider_message_id
    FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, token uuid, provider_code int, provider_message_id text)
    JOIN jobs j ON j.id = r.id AND j.claim_token = r.token
    WHERE j.status IN ({in_list(sources(Cause.LATE_ACCEPTANCE))}) ORDER BY j.id FOR UPDATE OF j
), late AS (
    UPDATE jobs j SET
        status = 'sent', version = j.version + 1, reason = NULL,
        updated_at = clock_timestamp(), finished_at = clock_timestamp(),
        provider_message_id = coalesce(held.provider_message_id, j.provider_message_id),
        body = CASE WHEN j.kind = 'message' AND NOT :retain_body THEN NULL ELSE j.body END
    FROM held WHERE j.id = held.id AND j.claim_token = held.token
    RETURNING {CALLBACK_COLUMNS}, held.token, held.provider_code, CAST(:grace AS float8) AS grace
), answered AS (
    UPDATE attempts a SET outcome = 'accepted', reason = 'late', provider_code = late.provider_code
    FROM late WHERE a.job_id = late.id AND a.claim_token = late.token
), unneeded AS (
    DELETE FROM outbox o USING late WHERE o.job_id = late.id
), {callbacks_of("late")}
SELECT id, token, version, status, kind, client_id, false AS publish, NULL AS headers,
    (SELECT c.id FROM callbacks c WHERE c.parent_id = late.id) AS callback, traceparent
FROM late
""")  # noqa: S608

ACCEPTED_LATE_BEFORE = sa.text("""
SELECT j.id, r.token, j.version, j.status, j.kind, j.client_id, false AS publish, NULL AS headers, NULL AS callback
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, token uuid)
JOIN jobs j ON j.id = r.id AND j.claim_token = r.token AND j.status = 'sent'
""")


def applied(token: UUID, status: str, kind: str, **fields: Any) -> Applied:
    return Applied(status=Status(status), kind=Kind(kind), **fields)
