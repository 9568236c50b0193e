"""Where clients want to be told of a job's end, and which job a callback tells of."""

from alembic import op

revision = "0008"
down_revision = "0007"

_CALLBACKS = """
ALTER TABLE jobs
    ADD COLUMN callback_url text,
    ADD COLUMN parent_id uuid,
    ADD COLUMN parent_version integer
"""

# One for each end of a job: a job that was requeued may end again, at a later version.
_ONE_EACH = """
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS jobs_callbacks ON jobs (parent_id, parent_version) WHERE kind = 'callback'
"""


def upgrade() -> None:
    op.execute(_CALLBACKS)
    with op.get_context().autocommit_block():
        op.execute(_ONE_EACH)
