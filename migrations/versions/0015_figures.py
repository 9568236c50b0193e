"""The indexes for live figures: waiting reports and callbacks, and dead letters by reason.

The counts of live figures stop at 10,000. Without these indexes, a count would read other kinds and reasons before it stops.
"""

from alembic import op

revision = "0015"
down_revision = "0014"

# Reports and callbacks have no provider, so `jobs_waiting` has them all under one key.
_BY_KIND = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_waiting_by_kind ON jobs (kind, due_at)
WHERE status IN ('queued', 'retrying') AND provider IS NULL
"""
# Expressions instead of nulls: a loose index scan compares rows, and a row with a null compares with nothing.
_DEAD_BY_REASON = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_dead_by_reason ON jobs (kind, coalesce(provider, ''), coalesce(reason, ''))
WHERE status IN ('failed', 'unknown')
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_BY_KIND)
        op.execute(_DEAD_BY_REASON)
