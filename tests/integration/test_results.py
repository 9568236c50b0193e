"""Results are read page by page in their order, whichever release computed them."""

from datetime import UTC, datetime

import pytest

from infra.postgres.results import BEFORE_ALL, ReportResult, Results, Sums
from jobs.reports import ReportParameters
from tests.support.factories import new_id
from tests.support.ledger import Store
from tests.support.results import insert_result

WORDS = {5: 9, -7: 1, 3: 9, 8: 2**40}
BY_WORDS = ReportParameters(order="words", histogram=True)


async def _find(
    store: Store, parameters: ReportParameters | None, histogram: list[tuple[int, int]] | None = None
) -> ReportResult:
    found = await Results(store.pool).find(insert_result(store.database, WORDS, parameters, histogram=histogram), 5)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("parameters", "order"),
    [(None, [-7, 3, 5, 8]), (ReportParameters(), [-7, 3, 5, 8]), (BY_WORDS, [8, 3, 5, -7])],
    ids=["older release", "by user", "by words"],
)
async def test_pages_are_in_the_order_of_the_report(
    store: Store, parameters: ReportParameters | None, order: list[int]
) -> None:
    results, result = Results(store.pool), await _find(store, parameters)
    after, users = BEFORE_ALL, []
    while rows := await results.page(result, after, 3, 5):
        assert all(row.words == WORDS[row.user_id] for row in rows)
        users += [row.user_id for row in rows]
        after = rows[-1].key
    assert users == order
    assert [row.user_id for row in await results.top(result, 2, 5)] == [8, 3]
    assert await results.sums(result, 5) == Sums(4, 2**40 + 19)


async def test_a_result_has_its_facts_and_that_of_an_older_release_has_none(store: Store) -> None:
    result = await _find(store, BY_WORDS, [(0, 3), (55, 4)])
    assert (result.posts, result.sums, result.histogram) == (7, Sums(4, 2**40 + 19), [(0, 3), (55, 4)])
    assert result.snapshot_at == datetime(2026, 11, 22, 4, 0, 0, 123_000, UTC)
    assert result.parameters == BY_WORDS and result.sha256 is not None and len(result.sha256) == 32
    old = await _find(store, None)
    assert (old.posts, old.sums, old.snapshot_at, old.histogram, old.sha256) == (None,) * 5


async def test_only_a_completed_report_has_a_result(store: Store) -> None:
    results, result = Results(store.pool), await _find(store, ReportParameters())
    assert await results.find(new_id(), 5) is None
    store.rows(f"UPDATE jobs SET status = 'failed' WHERE id = '{result.id}' RETURNING id")
    assert await results.find(result.id, 5) is None


async def test_an_older_worker_ignores_the_parameters_of_its_job(store: Store) -> None:
    """During an upgrade, a worker of the older release may complete a job with a body: it counts everything, by user id."""
    old = await _find(store, None)
    store.rows(f"""UPDATE jobs SET body = '{{"order": "words"}}' WHERE id = '{old.id}' RETURNING id""")
    results = Results(store.pool)
    result = await results.find(old.id, 5)
    assert result is not None and [row.user_id for row in await results.page(result, BEFORE_ALL, 9, 5)] == [-7, 3, 5, 8]
