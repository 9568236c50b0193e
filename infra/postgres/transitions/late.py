"""Late acceptance: the provider accepted a message after its claim's lease had expired."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.transitions.batch import Applied, applied, execute_or_read_back
from infra.postgres.transitions.callbacks import CALLBACK_COLUMNS, callbacks_of, in_list
from jobs.lifecycle import Cause, sources


@dataclass(frozen=True, slots=True)
class LateAcceptance:
    """The provider accepted the job after the lease of this claim had expired."""

    id: UUID
    token: UUID
    provider_code: int | None
    provider_message_id: str | None


# A later claim has another token, so its job does not match.
ACCEPT_LATE = sa.text(f"""
WITH held AS (
    SELECT j.id, r.token, r.provider_code, r.provider_message_id, r.grace, r.forget
    FROM json_to_recordset(CAST(:rows AS json))
        AS r(id uuid, token uuid, provider_code int, provider_message_id text, grace float8, forget boolean)
    JOIN jobs j ON j.id = r.id AND j.claim_token = r.token
    WHERE j.status IN ({in_list(sources(Cause.LATE_ACCEPTANCE))}) ORDER BY j.id FOR UPDATE OF j
), late AS (
    UPDATE jobs j SET
        status = 'sent', version = j.version + 1, reason = NULL,
        updated_at = clock_timestamp(), finished_at = clock_timestamp(),
        provider_message_id = coalesce(held.provider_message_id, j.provider_message_id),
        body = CASE WHEN forget AND j.kind = 'message' THEN NULL ELSE j.body END
    FROM held WHERE j.id = held.id AND j.claim_token = held.token
    RETURNING {CALLBACK_COLUMNS}, j.claim_token, held.provider_code, held.grace
), answered AS (
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


def accept_late(
    connection: sa.Connection, late: Sequence[LateAcceptance], *, grace_seconds: float, retain_body: bool
) -> list[Applied | None]:
    """Set jobs to `sent` whose claim has ended since. None: another claim has begun."""
    rows = [
        {
            "id": str(each.id),
            "token": str(each.token),
            "provider_code": each.provider_code,
            "provider_message_id": each.provider_message_id,
            "grace": grace_seconds,
            "forget": not retain_body,
        }
        for each in late
    ]
    tokens = {each.id: each.token for each in late}
    done = execute_or_read_back(connection, ACCEPT_LATE, ACCEPTED_LATE_BEFORE, rows, lambda row: applied(row, tokens))
    return [done.get((each.id, each.token)) for each in late]
