"""The trace of a job: retries, requeues and callbacks continue it."""

from alembic import op

revision = "0017"
down_revision = "0015"

# A W3C traceparent, like the column of the outbox. Null: the job was accepted without tracing.
_TRACEPARENT = "ALTER TABLE jobs ADD COLUMN traceparent text"


def upgrade() -> None:
    op.execute(_TRACEPARENT)
