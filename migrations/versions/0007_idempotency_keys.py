"""Idempotency keys of clients. A repeated request returns the first result."""

from alembic import op

revision = "0007"
down_revision = "0006"

# No foreign key: a key may outlive its job, and its result is still valid.
_KEYS = """
CREATE TABLE idempotency_keys (
    client_id    text NOT NULL,
    route        text NOT NULL,
    key          text NOT NULL,
    fingerprint  text NOT NULL,
    job_id       uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (client_id, route, key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)
"""

_BY_AGE = "CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at)"


def upgrade() -> None:
    op.execute(_KEYS)
    op.execute(_BY_AGE)
