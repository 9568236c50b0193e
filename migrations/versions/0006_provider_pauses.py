"""Pauses of providers by operators."""

from alembic import op

revision = "0006"
down_revision = "0005"

_PAUSES = """
CREATE TABLE provider_pauses (
    provider   text PRIMARY KEY,
    paused_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""


def upgrade() -> None:
    op.execute(_PAUSES)
