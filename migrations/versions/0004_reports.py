"""Reports as jobs: the progress of a job, and the totals of a report."""

from alembic import op

revision = "0004"
down_revision = "0003"

_PROGRESS = "ALTER TABLE jobs ADD COLUMN progress_done bigint, ADD COLUMN progress_about bigint"

# Keyed by claim: a worker with a lost lease may still be writing. The result is the rows of the completing claim.
_TOTALS = """
CREATE TABLE report_totals (
    job_id       uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    claim_token  uuid NOT NULL,
    user_id      integer NOT NULL,
    total_words  bigint NOT NULL,
    PRIMARY KEY (job_id, claim_token, user_id)
)
"""

_LIST = "CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_reports ON jobs (client_id, id) WHERE kind = 'report'"


def upgrade() -> None:
    op.execute(_PROGRESS)
    op.execute(_TOTALS)
    with op.get_context().autocommit_block():
        op.execute(_LIST)
