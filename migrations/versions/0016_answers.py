"""An excerpt of the provider's answer to an attempt that failed, for operators."""

from alembic import op

revision = "0016"
down_revision = "0015"

_ANSWER = "ALTER TABLE attempts ADD COLUMN answer text"


def upgrade() -> None:
    op.execute(_ANSWER)
