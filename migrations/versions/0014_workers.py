"""The worker that holds a job: the reaper takes its jobs back when its advisory lock is free."""

from alembic import op

revision = "0014"
down_revision = "0013"

# worker_version: the version of the claim that set worker_id. An earlier release claims without setting either, so an old
# worker_id never names the holder of a later claim.
_WORKER = "ALTER TABLE jobs ADD COLUMN worker_id bigint, ADD COLUMN worker_version integer"


def upgrade() -> None:
    op.execute(_WORKER)
