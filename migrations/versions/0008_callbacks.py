"""The callback URL of a job, and the parent job of a callback."""

from alembic import op

revision = "0008"
down_revision = "0007"

_CALLBACKS = """
ALTER TABLE jobs
    ADD COLUMN callback_url text,
    ADD COLUMN parent_id uuid,
    ADD COLUMN parent_version integer
"""

# One callback for each final status. A requeued job reaches another one at a later version.
_ONE_EACH = """
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS jobs_callbacks ON jobs (parent_id, parent_version) WHERE kind = 'callback'
"""


def upgrade() -> None:
    op.execute(_CALLBACKS)
    with op.get_context().autocommit_block():
        op.execute(_ONE_EACH)
