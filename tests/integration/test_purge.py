"""Purging makes progress, whatever the number of rows."""

import pytest

from infra.postgres import retention
from infra.postgres.errors import TryAgain
from infra.postgres.retention import Retention
from jobs.model import Kind
from tests.support.ledger import Store

SLOW_TOTALS = """
INSERT INTO jobs (id, kind, status, finished_at)
SELECT gen_random_uuid(), 'report', 'completed', now() - interval '40 days' FROM generate_series(1, 3);
INSERT INTO report_totals (job_id, claim_token, user_id, total_words)
SELECT id, gen_random_uuid(), n, 1 FROM jobs, generate_series(1, 10) n;
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.04); RETURN OLD; END $$;
CREATE TRIGGER slow BEFORE DELETE ON report_totals FOR EACH ROW EXECUTE FUNCTION slowly()
"""


async def test_reports_whose_totals_take_long_to_delete_are_purged_one_by_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_SECONDS", 0.6)
    store.rows(SLOW_TOTALS)
    purged = [count async for count in Retention(store.pool).purge_all(Kind.REPORT, 86_400)]
    assert sum(purged) == 3
    assert store.rows("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM report_totals)") == [(0, 0)]


async def test_a_single_job_that_takes_too_long_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_SECONDS", 0.1)
    monkeypatch.setattr(retention, "LONGEST_SECONDS", 0.1)
    store.rows(SLOW_TOTALS)
    with pytest.raises(TryAgain):
        [count async for count in Retention(store.pool).purge_all(Kind.REPORT, 86_400)]
