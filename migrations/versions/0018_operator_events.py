"""Operator events: the conditions that hold now, and the open breakers of the workers."""

from alembic import op

revision = "0018"
down_revision = "0017"

# A row from the first event of a condition to its second. The statement that inserts or deletes it inserts the callback, too.
_CONDITIONS = """
CREATE TABLE operator_conditions (
    name      text NOT NULL,
    subject   text NOT NULL,
    began_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, subject)
)
"""

# Each worker refreshes its rows while its breakers are open. So the rows of a dead worker are old. closed_at: an answered call
# of any worker.
_BREAKERS = """
CREATE TABLE open_breakers (
    provider   text NOT NULL,
    worker_id  bigint NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at  timestamptz,
    PRIMARY KEY (provider, worker_id)
)
"""


def upgrade() -> None:
    op.execute(_CONDITIONS)
    op.execute(_BREAKERS)
