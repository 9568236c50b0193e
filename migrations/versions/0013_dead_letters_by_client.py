"""The index for listing and requeueing one client's dead letters by id."""

from alembic import op

revision = "0013"
down_revision = "0012"

_BY_CLIENT = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_dead_by_client ON jobs (client_id, id) WHERE status IN ('failed', 'unknown')
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_BY_CLIENT)
