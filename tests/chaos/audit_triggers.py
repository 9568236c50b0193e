"""Triggers in the run's database record every step of every job, in the step's own transaction."""

from infra.postgres.pool import DatabasePool
from tests.chaos.evidence import Attempt, Evidence, Step
from tests.support.services import sql

# A trigger misses no step.
_INSTALL = """
CREATE TABLE audit_steps (
    job_id uuid, version int, status text, was text, at timestamptz DEFAULT clock_timestamp()
);
CREATE TABLE audit_outbox (job_id uuid, version int, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION audit_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit_steps (job_id, version, status, was)
    VALUES (NEW.id, NEW.version, NEW.status, CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END);
    RETURN NULL;
END $$;
CREATE FUNCTION audit_publish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit_outbox (job_id, version) VALUES (NEW.job_id, NEW.version);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_new AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION audit_step();
CREATE TRIGGER audit_change AFTER UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.version IS DISTINCT FROM NEW.version OR OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION audit_step();
CREATE TRIGGER audit_publish AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION audit_publish();
"""

_STEPS = """
SELECT CAST(job_id AS text), version, status, was, CAST(extract(epoch FROM at) AS float8)
FROM audit_steps ORDER BY at
"""
_ATTEMPTS = """
SELECT CAST(job_id AS text), revision, outcome, reason, charged, CAST(extract(epoch FROM ended_at) AS float8)
FROM attempts ORDER BY ended_at
"""
_REPUBLICATIONS = """
SELECT CAST(job_id AS text), version, CAST(extract(epoch FROM at) AS float8) FROM (
    SELECT *, row_number() OVER (PARTITION BY job_id, version ORDER BY at) AS n FROM audit_outbox
) o WHERE n > 1
"""
_REMAINING = """
SELECT 'outbox rows', count(*) FROM outbox
UNION ALL SELECT 'leases', count(*) FROM jobs WHERE lease_until IS NOT NULL
UNION ALL SELECT 'unfinished jobs', count(*) FROM jobs WHERE status IN ('queued', 'processing', 'retrying')
"""


def install(database: str) -> None:
    pool = DatabasePool(database, name="audit", threads=1)
    with pool.engine.connect() as connection:
        connection.exec_driver_sql(_INSTALL)
    pool.close()


def remaining(database: str) -> dict[str, int]:
    """Counts of unfinished work in the ledger."""
    return {str(name): int(str(count)) for name, count in sql(database, _REMAINING)}


def collect(database: str, evidence: Evidence) -> None:
    """Read the records into the evidence."""
    evidence.steps = [Step(*row) for row in sql(database, _STEPS)]  # type: ignore[arg-type]
    evidence.attempts = [Attempt(*row) for row in sql(database, _ATTEMPTS)]  # type: ignore[arg-type]
    evidence.republications = [(str(row[0]), int(str(row[1])), float(str(row[2]))) for row in sql(database, _REPUBLICATIONS)]
    rows = sql(database, "SELECT CAST(id AS text) FROM jobs WHERE delivery = 'at_most_once'")
    evidence.at_most_once = {str(id_) for (id_,) in rows}
    jobs_with_callback = sql(database, "SELECT CAST(id AS text), kind FROM jobs WHERE callback_url IS NOT NULL")
    evidence.jobs_with_callback = {str(id_): str(kind) for id_, kind in jobs_with_callback}
    callbacks = sql(database, "SELECT CAST(id AS text), CAST(parent_id AS text) FROM jobs WHERE kind = 'callback'")
    evidence.parents = {str(id_): str(parent) for id_, parent in callbacks}
