"""The index for finding jobs past their retention."""

from alembic import op

revision = "0012"
down_revision = "0011"

_OVER = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_over ON jobs (kind, finished_at)
WHERE status IN ('sent', 'completed', 'delivered', 'canceled', 'expired', 'discarded')
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_OVER)
