"""The ledger: jobs, attempts, the outbox, and the namespace of the database."""

from alembic import op

revision = "0001"
down_revision = None

_INSTALLATION = """
CREATE TABLE installation (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    namespace   text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""

# due_at: the earliest claim (retry delays). queued_at: the acceptance or the requeue; the retry deadline counts from it.
# attempts: the charged attempts of this revision. tries: the rows of `attempts` of this revision.
_JOBS = """
CREATE TABLE jobs (
    id                   uuid PRIMARY KEY,
    client_id            text NOT NULL DEFAULT 'default',
    kind                 text NOT NULL,
    provider             text,
    priority             text NOT NULL DEFAULT 'normal',
    status               text NOT NULL DEFAULT 'queued' CHECK (status IN (
                             'queued', 'processing', 'retrying', 'sent', 'delivered', 'completed',
                             'failed', 'unknown', 'canceled', 'expired', 'discarded')),
    version              integer NOT NULL DEFAULT 1,
    revision             integer NOT NULL DEFAULT 0,
    attempts             integer NOT NULL DEFAULT 0,
    tries                integer NOT NULL DEFAULT 0,
    lost_leases          integer NOT NULL DEFAULT 0,
    claim_token          uuid,
    lease_until          timestamptz,
    reason               text,
    provider_message_id  text,
    destination          text,
    body                 text,
    reference            text,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    queued_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at               timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at          timestamptz
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)
"""

_LEASES = "CREATE INDEX jobs_lease ON jobs (lease_until) WHERE status = 'processing'"

# A row for each claim that ended in an outcome or a lost lease, with its claim token. After a COMMIT in doubt, the token
# shows whether the transition was recorded.
_ATTEMPTS = """
CREATE TABLE attempts (
    job_id         uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    revision       integer NOT NULL,
    n              integer NOT NULL,
    claim_token    uuid NOT NULL,
    charged        boolean NOT NULL,
    outcome        text NOT NULL,
    reason         text,
    provider_code  integer,
    ran_seconds    double precision,
    ended_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, revision, n)
)
"""

# No foreign key: its check would cost each accept a look-up. A row without a job matches nothing.
_OUTBOX = """
CREATE TABLE outbox (
    job_id       uuid NOT NULL,
    version      integer NOT NULL,
    route        text NOT NULL CHECK (route IN ('work', 'dead')),
    queue        text NOT NULL,
    due_at       timestamptz NOT NULL,
    headers      jsonb,
    traceparent  text,
    PRIMARY KEY (job_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0)
"""

_OUTBOX_DUE = "CREATE INDEX outbox_due ON outbox (queue, due_at)"


def upgrade() -> None:
    for statement in (_INSTALLATION, _JOBS, _LEASES, _ATTEMPTS, _OUTBOX, _OUTBOX_DUE):
        op.execute(statement)
