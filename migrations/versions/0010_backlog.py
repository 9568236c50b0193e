"""The index for counting the waiting jobs of a client."""

from alembic import op

revision = "0010"
down_revision = "0009"

_BACKLOG = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_backlog ON jobs (client_id, due_at) INCLUDE (provider)
WHERE status IN ('queued', 'retrying') AND kind <> 'callback'
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_BACKLOG)
