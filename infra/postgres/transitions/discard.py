"""Discard: dead letters end for good."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.transitions.batch import to_json
from infra.postgres.transitions.callbacks import CALLBACK_COLUMNS, callbacks_of, in_list
from jobs.lifecycle import Cause, sources
from jobs.wire import Pointer

DISCARD = sa.text(f"""
WITH held AS (
    SELECT j.id, r.version FROM json_to_recordset(CAST(:rows AS json)) AS r(id uuid, version int)
    JOIN jobs j ON j.id = r.id AND j.version = r.version
    WHERE j.status IN ({in_list(sources(Cause.DISCARD))}) ORDER BY j.id FOR UPDATE OF j
), discarded AS (
    UPDATE jobs j SET status = 'discarded', version = j.version + 1, updated_at = clock_timestamp(),
        finished_at = clock_timestamp()
    FROM held WHERE j.id = held.id AND j.version = held.version
    RETURNING {CALLBACK_COLUMNS}, 0 AS grace
), unneeded AS (
    DELETE FROM outbox o USING discarded WHERE o.job_id = discarded.id AND o.version < discarded.version
), {callbacks_of("discarded")}
SELECT id FROM discarded
""")  # noqa: S608  the interpolated parts are constants


def discard(connection: sa.Connection, letters: Sequence[Pointer]) -> set[UUID]:
    """Discard the letters; returns the ids. A letter that has moved on since it was read is left."""
    rows = [{"id": str(each.id), "version": each.version} for each in letters]
    return {row.id for row in connection.execute(DISCARD, {"rows": to_json(rows)})}
