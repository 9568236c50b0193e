"""The transitions of a claimed job: its outcome, or a lost lease; with its attempt, its outbox row and its callback."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from infra.postgres.transitions.batch import Applied, applied, execute_or_read_back
from infra.postgres.transitions.callbacks import CALLBACK_COLUMNS, callbacks_of, in_list
from jobs.lifecycle import ENDS, Cause, Status, sources
from jobs.model import Transition

# The headers of a dead letter in the management UI. Milliseconds, because AMQP loses a float's precision.
DEAD_HEADERS = """jsonb_build_object(
    'kind', kind, 'provider', provider, 'reason', reason, 'last_reason', attempt_reason, 'provider_code', provider_code,
    'attempts', attempts,
    'revision', revision, 'created_at_ms', CAST(extract(epoch FROM created_at) * 1000 AS bigint),
    'failed_at_ms', CAST(extract(epoch FROM updated_at) * 1000 AS bigint))"""

APPLY = sa.text(f"""
WITH held AS (
    SELECT r.* FROM json_to_recordset(CAST(:rows AS json)) AS r(
        id uuid, version int, token uuid, status text, reason text, tried boolean, charged boolean, lost boolean,
        counted boolean, outcome text, attempt_reason text, provider_code int, provider_message_id text,
        ran float8, delay float8, grace float8, route text, queue text, forget boolean)
    JOIN jobs j ON j.id = r.id AND j.version = r.version AND j.claim_token = r.token
    WHERE j.status IN ({in_list(sources(Cause.ACCEPTED))}) AND (NOT r.lost OR j.lease_until < now())
    ORDER BY j.id FOR UPDATE OF j
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
    RETURNING {CALLBACK_COLUMNS}, j.revision, j.tries, j.claim_token, j.due_at, j.provider,
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

# A recorded transition left its token in `attempts`, except a release: that left the job queued, one version further, under the
# token. A lost lease is the reaper's transition. The relay publishes the callback.
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


def apply(
    connection: sa.Connection, transitions: Sequence[Transition], *, grace_seconds: float, retain_body: bool
) -> list[Applied | None]:
    """Record transitions, their attempts and the messages to publish. None: stale, the job has moved on."""
    rows = [_row(each, grace_seconds, retain_body=retain_body) for each in transitions]
    tokens = {each.id: each.token for each in transitions}
    done = execute_or_read_back(connection, APPLY, APPLIED_BEFORE, rows, lambda row: applied(row, tokens))
    return [done.get((each.id, each.token)) for each in transitions]


def _row(t: Transition, grace_seconds: float, *, retain_body: bool) -> dict[str, Any]:
    # A message that is due at once has the committing process' head start. The relay publishes a delayed one when it is due.
    grace = grace_seconds if t.delay_seconds == 0 else 0.0
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
        "forget": t.to is Status.SENT and not retain_body,
    }
