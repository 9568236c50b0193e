"""Reports by partitions: runs over one snapshot, their partial results, results in any order, and the version of the posts."""

from alembic import op

revision = "0019"
down_revision = "0018"

# `detail`: partitions, rate, time left, snapshot and restarts, as the API shows them.
_PROGRESS = "ALTER TABLE jobs ADD COLUMN progress_detail jsonb"

# `bounds`: partition n has the ids above bounds[n] up to bounds[n + 1]. `posts_version`: null if a writer was active.
_RUNS = """
CREATE TABLE report_runs (
    id             uuid PRIMARY KEY,
    job_id         uuid NOT NULL UNIQUE REFERENCES jobs ON DELETE CASCADE,
    snapshot       text NOT NULL,
    snapshot_at    timestamptz NOT NULL,
    posts_version  bigint,
    bounds         bigint[] NOT NULL,
    restarts       integer NOT NULL
)
"""

# `words[n]` are those of `users[n]`; `lengths` and `length_posts`: the histogram, posts by their number of words.
_PARTITIONS = """
CREATE TABLE report_partitions (
    run_id        uuid NOT NULL REFERENCES report_runs ON DELETE CASCADE,
    number        integer NOT NULL,
    posts         bigint NOT NULL,
    users         integer[] NOT NULL,
    words         bigint[] NOT NULL,
    lengths       integer[],
    length_posts  bigint[],
    PRIMARY KEY (run_id, number)
)
"""

# One for each completed claim since this revision. `sha256`: of the content, whatever its format. `histogram`: pairs of words
# and posts.
_RESULTS = """
CREATE TABLE report_results (
    job_id         uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    claim_token    uuid NOT NULL,
    posts          bigint NOT NULL,
    users          bigint NOT NULL,
    words          bigint NOT NULL,
    snapshot_at    timestamptz NOT NULL,
    parameters     text NOT NULL,
    posts_version  bigint,
    histogram      jsonb,
    sha256         bytea NOT NULL,
    PRIMARY KEY (job_id, claim_token)
)
"""
_SHARED = "CREATE INDEX report_results_shared ON report_results (posts_version) WHERE posts_version IS NOT NULL"

# The place of a user in a result that is ordered by words. Null: the result is ordered by user id.
_POSITION = "ALTER TABLE report_totals ADD COLUMN position integer"
_BY_POSITION = """
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS report_totals_by_position ON report_totals (job_id, claim_token, position)
WHERE position IS NOT NULL
"""

# A sequence, because a counter in a row would make writers wait for each other. With the owner's rights, because whoever may
# write posts need not know of the sequence. The first value is taken here: `last_value` means nothing before it.
_VERSION = ("CREATE SEQUENCE posts_changes", "SELECT nextval('posts_changes')")
_COUNT_CHANGES = """
CREATE FUNCTION count_posts_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM nextval('posts_changes');
    RETURN NULL;
END
$$;
CREATE TRIGGER posts_change BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON posts
FOR EACH STATEMENT EXECUTE FUNCTION count_posts_change()
"""


def upgrade() -> None:
    for statement in (_PROGRESS, _RUNS, _PARTITIONS, _RESULTS, _SHARED, _POSITION, *_VERSION, _COUNT_CHANGES):
        op.execute(statement)
    with op.get_context().autocommit_block():
        op.execute(_BY_POSITION)
