"""Recurring reports."""

from alembic import op

revision = "0020"
down_revision = "0019"

# `slot`: the first free number of the client; its limit is exact under concurrent inserts. `parameters`: the body of the jobs.
# `last_id`: the newest job, which retention may have deleted.
_SCHEDULES = """
CREATE TABLE report_schedules (
    client_id         text NOT NULL,
    name              text NOT NULL,
    slot              integer NOT NULL,
    cron              text NOT NULL,
    timezone          text NOT NULL,
    parameters        text,
    callback_url      text,
    default_callback  boolean NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at           timestamptz NOT NULL,
    last_at           timestamptz,
    last_id           uuid,
    PRIMARY KEY (client_id, name),
    UNIQUE (client_id, slot)
)
"""
_DUE = "CREATE INDEX report_schedules_due ON report_schedules (next_at)"

# The relay looks for the usable keys of clients every second. Without an index, the plan is costly enough for JIT: 0.1 s.
_KEYS = "CREATE INDEX CONCURRENTLY IF NOT EXISTS api_keys_by_client ON api_keys (client_id)"


def upgrade() -> None:
    for statement in (_SCHEDULES, _DUE):
        op.execute(statement)
    with op.get_context().autocommit_block():
        op.execute(_KEYS)
