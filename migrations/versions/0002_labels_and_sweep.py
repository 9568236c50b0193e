"""Tags and metadata of messages, and the indexes of the sweep."""

from alembic import op

revision = "0002"
down_revision = "0001"

# json, not jsonb: metadata is returned unchanged, including the order of its keys, and never queried.
_LABELS = "ALTER TABLE jobs ADD COLUMN tags text[] NOT NULL DEFAULT '{}', ADD COLUMN metadata json"

_WAITING = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_waiting ON jobs (provider, priority, due_at)
WHERE status IN ('queued', 'retrying')
"""

# The latest due instant of claimed jobs. The index is small: it has only jobs in `processing`.
_CLAIMED = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_claimed ON jobs (provider, priority, due_at) WHERE status = 'processing'
"""

_DEAD = "CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_dead ON jobs (id) WHERE status IN ('failed', 'unknown')"


def upgrade() -> None:
    op.execute(_LABELS)
    with op.get_context().autocommit_block():  # concurrently, so that the service continues meanwhile
        op.execute(_WAITING)
        op.execute(_CLAIMED)
        op.execute(_DEAD)
