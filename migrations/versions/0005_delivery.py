"""How often a message may reach its provider, under which key, and whether a claim was begun."""

from alembic import op

revision = "0005"
down_revision = "0004"

# started: false from the claim of a job that has lost a lease before until its work begins; a worker that dies in between
# counts nothing against it.
# key_revision: the revision whose idempotency key the provider sees; a requeue from `failed` begins a new one.
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
