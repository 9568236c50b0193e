"""Clients and their API keys."""

from alembic import op

revision = "0009"
down_revision = "0008"

_CLIENTS = """
CREATE TABLE clients (
    id          text PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""

# The key itself is displayed once and not stored. Its 190 random bits make a plain SHA-256 safe.
_KEYS = """
CREATE TABLE api_keys (
    prefix      text PRIMARY KEY,
    client_id   text NOT NULL REFERENCES clients,
    hash        text NOT NULL,
    scopes      text[] NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz,
    revoked_at  timestamptz
)
"""


def upgrade() -> None:
    op.execute(_CLIENTS)
    op.execute(_KEYS)
