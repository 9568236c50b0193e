"""The indexes for lists of messages, newest first, with one filter or none."""

from alembic import op

revision = "0011"
down_revision = "0010"

_INDEXES = (
    "jobs_messages ON jobs (client_id, id) WHERE kind = 'message'",
    "jobs_by_status ON jobs (client_id, status, id) WHERE kind = 'message'",
    "jobs_by_destination ON jobs (client_id, destination, id) WHERE kind = 'message'",
    "jobs_by_reference ON jobs (client_id, reference, id) WHERE kind = 'message' AND reference IS NOT NULL",
)

# A row for each tag. An index over the arrays would find all messages with a tag, and then sort them.
_TAGS = """
CREATE TABLE message_tags (
    client_id  text NOT NULL,
    tag        text NOT NULL,
    job_id     uuid NOT NULL,
    PRIMARY KEY (client_id, tag, job_id)
)
"""

# Retention deletes the tags of a job through this index.
_BY_JOB = "CREATE INDEX message_tags_by_job ON message_tags (job_id)"

_KNOWN = """
INSERT INTO message_tags (client_id, tag, job_id)
SELECT DISTINCT client_id, unnest(tags), id FROM jobs WHERE kind = 'message' AND tags <> '{}'
ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    for statement in (_TAGS, _BY_JOB, _KNOWN):
        op.execute(statement)
    with op.get_context().autocommit_block():
        for index in _INDEXES:
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index}")
