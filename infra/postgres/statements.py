"""The ledger's statements. Each takes a batch as one JSON array, locks its rows, and changes all tables concerned.

Rows are locked in the order of their ids, as unsorted overlapping batches deadlock; the version is repeated in every WHERE.
`now()` (the statement's start) stands in comparisons, as an index serves only what is stable within the statement;
`clock_timestamp()` in assignments, as the statement may have waited for its locks.
"""

import sqlalchemy as sa

from infra.postgres.callback_rows import TOLD_COLUMNS, callbacks_of, in_list
from jobs.lifecycle import ENDS, Cause, sources

# What the management UI shows of a dead letter: why, how often tried, when. Milliseconds, as AMQP loses a float's precision.
DEAD_HEADERS = """jsonb_build_object(
    'kind', kind, 'provider', provider, 'reason', reason, 'last_reason', attempt_reason, 'provider_code', provider_code,
    'attempts', attempts,
    'revision', revision, 'created_at_ms', CAST(extract(epoch FROM created_at) * 1000 AS bigint),
    'failed_at_ms', CAST(extract(epoch FROM updated_at) * 1000 AS bigint))"""

# A key that is there already makes no job. One that somebody else is inserting is waited for, until that is committed or not.
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
SELECT r.id AS asked, k.job_id AS id, coalesce(j.created_at, k.created_at) AS created_at, k.fingerprint = r.fingerprint AS equal
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, client_id text, route text, key text, fingerprint text)
JOIN idempotency_keys k ON k.client_id = r.client_id AND k.route = r.route AND k.key = r.key
LEFT JOIN jobs j ON j.id = k.job_id
""")

# Bounded, and past rows that somebody holds: a purge never makes anybody wait.
FORGET_KEYS = sa.text("""
DELETE FROM idempotency_keys WHERE (client_id, route, key) IN (
    SELECT client_id, route, key FROM idempotency_keys WHERE created_at < now() - :older * interval '1 second'
    ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
""")

_CLAIMED_COLUMNS = """j.id, j.version, j.claim_token, j.revision, j.kind, j.client_id, j.provider, j.priority, j.destination,
    j.body, j.delivery, j.key_revision, j.attempts, j.tries, j.lost_leases,
    CAST(extract(epoch FROM clock_timestamp() - j.queued_at) AS float8) AS age_seconds"""

# A claim of a dead letter, moved back to its work queue by hand, begins a new revision.
CLAIM = sa.text(f"""
WITH held AS (
    SELECT j.id, r.version, r.token, r.lease, j.status IN ('failed', 'unknown') AS anew, j.status = 'failed' AS new_key
    FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, token uuid, lease float8)
    JOIN jobs j ON j.id = r.id AND j.version = r.version
    WHERE j.status IN ({in_list(sources(Cause.CLAIM))}) ORDER BY j.id FOR UPDATE OF j
)
UPDATE jobs j SET
    status = 'processing', version = j.version + 1, claim_token = token,
    lease_until = clock_timestamp() + lease * interval '1 second', updated_at = clock_timestamp(), finished_at = NULL,
    started = anew OR j.lost_leases = 0,
    revision = j.revision + CAST(anew AS int),
    key_revision = CASE WHEN new_key THEN j.revision + 1 ELSE j.key_revision END,
    attempts = CASE WHEN anew THEN 0 ELSE j.attempts END,
    tries = CASE WHEN anew THEN 0 ELSE j.tries END,
    lost_leases = CASE WHEN anew THEN 0 ELSE j.lost_leases END,
    queued_at = CASE WHEN anew THEN clock_timestamp() ELSE j.queued_at END,
    progress_done = NULL, progress_about = NULL
FROM held WHERE j.id = held.id AND j.version = held.version
RETURNING {_CLAIMED_COLUMNS}
""")  # noqa: S608  the interpolated parts are constants

CLAIMED_BEFORE = sa.text(f"""
SELECT {_CLAIMED_COLUMNS} FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, token uuid)
JOIN jobs j ON j.id = r.id AND j.version = r.version + 1 AND j.claim_token = r.token AND j.status = 'processing'
""")  # noqa: S608

APPLY = sa.text(f"""
WITH held AS (
    SELECT r.* FROM json_to_recordset(CAST(:rows AS json)) AS r(
        id uuid, version int, token uuid, status text, reason text, tried boolean, charged boolean, lost boolean,
        counted boolean, outcome text, attempt_reason text, provider_code int, provider_message_id text,
        ran float8, delay float8, grace float8, route text, queue text, forget boolean)
    JOIN jobs j ON j.id = r.id AND j.version = r.version AND j.claim_token = r.token
    WHERE j.status = 'processing' AND (NOT r.lost OR j.lease_until < now()) ORDER BY j.id FOR UPDATE OF j
), applied AS (
    UPDATE jobs j SET
        status = held.status, version = j.version + 1, reason = held.reason, lease_until = NULL,
        attempts = j.attempts + CAST(charged AS int), tries = j.tries + CAST(tried AS int),
        lost_leases = j.lost_leases + CAST(counted AS int),
        provider_message_id = coalesce(held.provider_message_id, j.provider_message_id),
        body = CASE WHEN forget AND j.kind = 'message' THEN NULL ELSE j.body END,
        due_at = clock_timestamp() + delay * interval '1 second', updated_at = clock_timestamp(),
        finished_at = CASE WHEN held.status IN ({in_list(ENDS)}) THEN clock_timestamp() END
    FROM held WHERE j.id = held.id AND j.version = held.version
    RETURNING {TOLD_COLUMNS}, j.revision, j.tries, j.claim_token, j.due_at, j.provider,
        tried, charged, outcome, attempt_reason, provider_code, ran, grace, route, queue
), attempted AS (
    INSERT INTO attempts (job_id, revision, n, claim_token, charged, outcome, reason, provider_code, ran_seconds)
    SELECT id, revision, tries, claim_token, charged, outcome, attempt_reason, provider_code, ran FROM applied WHERE tried
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, headers)
    SELECT id, version, route, queue, due_at + grace * interval '1 second', CASE WHEN route = 'dead' THEN {DEAD_HEADERS} END
    FROM applied WHERE queue IS NOT NULL
), {callbacks_of("applied")}
SELECT id, version, status, kind, client_id, queue IS NOT NULL AS publish,
    CASE WHEN route = 'dead' THEN {DEAD_HEADERS} END AS headers,
    (SELECT c.id FROM callbacks c WHERE c.parent_id = applied.id) AS callback
FROM applied
""")  # noqa: S608

# A step that was recorded left its token in `attempts`, unless it was a release: that left the job one version further,
# queued, and still under the token. The reaper's row for the same token is somebody else's step. Its callback is left
# to the relay.
APPLIED_BEFORE = sa.text("""
SELECT j.id, r.version + 1 AS version, r.status, j.kind, j.client_id, o.job_id IS NOT NULL AS publish, o.headers,
    NULL AS callback
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int, token uuid, status text, lost boolean)
JOIN jobs j ON j.id = r.id
LEFT JOIN attempts t ON t.job_id = r.id AND t.claim_token = r.token
LEFT JOIN outbox o ON o.job_id = r.id AND o.version = r.version + 1
WHERE (t.claim_token IS NOT NULL AND (t.outcome = 'lease_lost') = r.lost)
   OR (r.status = 'queued' AND j.version = r.version + 1 AND j.status = 'queued' AND j.claim_token = r.token)
""")

# The lease was lost, the job taken back, and then the answer came: accepted. Whoever claimed it since has another token.
ACCEPT_LATE = sa.text(f"""
WITH held AS (
    SELECT j.id, r.token, r.provider_code, r.provider_message_id, r.grace, r.forget
    FROM json_to_recordset(CAST(:rows AS json))
        AS r(id uuid, token uuid, provider_code int, provider_message_id text, grace float8, forget boolean)
    JOIN jobs j ON j.id = r.id AND j.claim_token = r.token
    WHERE j.status IN ('retrying', 'unknown') ORDER BY j.id FOR UPDATE OF j
), late AS (
    UPDATE jobs j SET
        status = 'sent', version = j.version + 1, reason = NULL,
        updated_at = clock_timestamp(), finished_at = clock_timestamp(),
        provider_message_id = coalesce(held.provider_message_id, j.provider_message_id),
        body = CASE WHEN forget AND j.kind = 'message' THEN NULL ELSE j.body END
    FROM held WHERE j.id = held.id AND j.claim_token = held.token
    RETURNING {TOLD_COLUMNS}, j.claim_token, held.provider_code, held.grace
), told AS (
    UPDATE attempts a SET outcome = 'accepted', reason = 'late', provider_code = late.provider_code
    FROM late WHERE a.job_id = late.id AND a.claim_token = late.claim_token
), unneeded AS (
    DELETE FROM outbox o USING late WHERE o.job_id = late.id
), {callbacks_of("late")}
SELECT id, version, status, kind, client_id, claim_token, false AS publish, NULL AS headers,
    (SELECT c.id FROM callbacks c WHERE c.parent_id = late.id) AS callback
FROM late
""")  # noqa: S608

ACCEPTED_LATE_BEFORE = sa.text("""
SELECT j.id, j.version, j.status, j.kind, j.client_id, j.claim_token, false AS publish, NULL AS headers, NULL AS callback
FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, token uuid)
JOIN jobs j ON j.id = r.id AND j.claim_token = r.token AND j.status = 'sent'
""")

RENEW = sa.text("""
UPDATE jobs SET started = true, lease_until = clock_timestamp() + :lease * interval '1 second', updated_at = clock_timestamp(),
    progress_done = :done, progress_about = :about
WHERE id = :id AND version = :version AND claim_token = :token AND status = 'processing'
""")

EXPIRED_LEASES = sa.text("""
SELECT id, version, claim_token, kind, provider, priority, delivery, lost_leases, started FROM jobs
WHERE status = 'processing' AND lease_until < now() ORDER BY lease_until LIMIT :limit
FOR UPDATE SKIP LOCKED
""")
