"""The posts that reports count. There is no column of totals: totals are computed."""

from alembic import op

revision = "0003"
down_revision = "0002"

_POSTS = """
CREATE TABLE posts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     integer NOT NULL,
    context     text NOT NULL,
    created_at  timestamptz NOT NULL
)
"""


def upgrade() -> None:
    op.execute(_POSTS)
