"""The delivery guarantee of a message, the revision of its idempotency key, and whether its attempt began."""

from alembic import op

revision = "0005"
down_revision = "0004"

# started: false from the claim of a job with a lost lease until its attempt begins. A lease that is lost meanwhile does not
# count.
# key_revision: the revision of the provider's idempotency key. A requeue from `failed` begins a new one.
_DELIVERY = """
ALTER TABLE jobs
    ADD COLUMN delivery text NOT NULL DEFAULT 'at_least_once' CHECK (delivery IN ('at_least_once', 'at_most_once')),
    ADD COLUMN key_revision integer NOT NULL DEFAULT 0,
    ADD COLUMN started boolean NOT NULL DEFAULT true
"""

_KEYS = "UPDATE jobs SET key_revision = revision WHERE revision > 0"


def upgrade() -> None:
    op.execute(_DELIVERY)
    op.execute(_KEYS)
