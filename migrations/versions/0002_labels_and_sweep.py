"""What clients attach to a message, and the index by which the sweep finds jobs that wait without a message."""

from alembic import op

revision = "0002"
down_revision = "0001"

# json and not jsonb: metadata is returned as it came, key order and all, and never looked into.
_LABELS = "ALTER TABLE jobs ADD COLUMN tags text[] NOT NULL DEFAULT '{}', ADD COLUMN metadata json"

_WAITING = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_waiting ON jobs (provider, priority, due_at)
WHERE status IN ('queued', 'retrying')
"""

# Which due instant has been reached by claims: small, as only what is being worked on is in it.
_CLAIMED = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_claimed ON jobs (provider, priority, due_at) WHERE status = 'processing'
"""

_DEAD = "CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_dead ON jobs (id) WHERE status IN ('failed', 'unknown')"


def upgrade() -> None:
    op.execute(_LABELS)
    with op.get_context().autocommit_block():  # concurrently: the service goes on while a large table is indexed
        op.execute(_WAITING)
        op.execute(_CLAIMED)
        op.execute(_DEAD)
