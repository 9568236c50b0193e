"""Move: messages that wait for one provider go to another."""

import sqlalchemy as sa

from infra.postgres.transitions.callbacks import in_list
from jobs.lifecycle import Cause, sources
from jobs.model import Priority, message_queue

# A published message for the old provider names the old version, so its claim is stale.
MOVE = sa.text(f"""
WITH held AS (
    SELECT id, version FROM jobs
    WHERE provider = :old AND priority = :priority AND status IN ({in_list(sources(Cause.MOVE))})
    ORDER BY id LIMIT :limit FOR UPDATE
), moved AS (
    UPDATE jobs j SET provider = :new, version = j.version + 1, updated_at = clock_timestamp()
    FROM held WHERE j.id = held.id AND j.version = held.version RETURNING j.id, j.version, j.due_at
), unneeded AS (
    DELETE FROM outbox o USING moved WHERE o.job_id = moved.id AND o.version < moved.version
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at) SELECT id, version, 'work', :queue, due_at FROM moved
)
SELECT count(*) FROM moved
""")  # noqa: S608  the interpolated part is a constant


def move(connection: sa.Connection, old: str, new: str, priority: Priority, limit: int) -> int:
    """Move at most `limit` waiting messages from provider `old` to `new`; returns how many."""
    queue = message_queue(new, priority).name
    parameters = {"old": old, "new": new, "priority": priority, "limit": limit, "queue": queue}
    return int(connection.execute(MOVE, parameters).scalar_one())
