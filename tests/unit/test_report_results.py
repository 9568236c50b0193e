"""The result of a report: its order, its limit, its digest, and the progress before it."""

import hashlib
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest

from consumers.reports import results as room
from consumers.reports.partition import PartitionResult
from consumers.reports.results import arrange, digest
from consumers.reports.tally import Tally, as_stored, from_stored
from infra.postgres.report_runs import Run
from jobs.model import Progress
from jobs.reports import ReportParameters

USERS, WORDS = np.array([-3, 1, 2, 9], np.int64), np.array([5, 9, 5, 0], np.int64)
RUN = Run(uuid4(), "snapshot content", datetime(2026, 1, 1, tzinfo=UTC), 7, [0, 10, 20, 30, 40], 2)


@pytest.mark.parametrize(
    ("parameters", "rows"),
    [
        (ReportParameters(), [(-3, 5), (1, 9), (2, 5), (9, 0)]),
        (ReportParameters(order="words"), [(1, 9), (-3, 5), (2, 5), (9, 0)]),
        (ReportParameters(order="words", limit=2), [(1, 9), (-3, 5)]),
        (ReportParameters(limit=2), [(-3, 5), (1, 9)]),
        (ReportParameters(limit=100), [(-3, 5), (1, 9), (2, 5), (9, 0)]),
    ],
)
def test_the_rows_have_the_order_and_the_limit_of_the_parameters(
    parameters: ReportParameters, rows: list[tuple[int, int]]
) -> None:
    found = arrange(USERS, WORDS, parameters)
    assert list(zip(found.users.tolist(), found.words.tolist(), strict=True)) == rows


def test_the_digest_is_that_of_the_csv_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 3)
    rows = arrange(USERS, WORDS, ReportParameters())
    totals = b"user_id,total_words\r\n-3,5\r\n1,9\r\n2,5\r\n9,0\r\n"
    assert digest(rows, None) == hashlib.sha256(totals).digest()
    assert digest(rows, [(0, 1), (5, 2)]) == hashlib.sha256(totals + b"words,posts\r\n0,1\r\n5,2\r\n").digest()


def _result(number: int, posts: int, *, histogram: bool = False) -> PartitionResult:
    lengths = (np.array([2], np.int64), np.array([posts], np.int64)) if histogram else (None, None)
    return PartitionResult(number, posts, np.array([1], np.int64), np.array([2 * posts], np.int64), *lengths)


def test_progress_counts_what_was_counted_before_but_measures_the_rate_of_this_claim() -> None:
    now = [100.0]
    progress = Progress()
    tally = Tally(RUN, ReportParameters(), progress, monotonic=lambda: now[0])
    tally.add(_result(0, 1000))
    tally.begin()
    assert (progress.done, progress.estimate) == (1000, 4000)
    assert progress.detail == {
        "partitions": 1,
        "of_partitions": 4,
        "posts_per_second": None,
        "seconds_left": None,
        "snapshot_at": "2026-01-01T00:00:00.000Z",
        "restarts": 2,
    }
    now[0] += 2
    tally.add(_result(2, 3000))
    tally.show()
    assert (progress.done, progress.estimate, tally.missing()) == (4000, 8000, [1, 3])
    assert progress.detail["posts_per_second"] == 1500 and progress.detail["seconds_left"] == 4.0


def test_an_estimate_of_postgres_stays() -> None:
    progress = Progress()
    tally = Tally(RUN, ReportParameters(), progress, estimate=10_000)
    tally.add(_result(0, 1000))
    tally.begin()
    assert progress.estimate == 10_000


@pytest.mark.parametrize("histogram", [False, True])
def test_a_stored_result_is_the_same(histogram: bool) -> None:
    tallies = [Tally(RUN, ReportParameters(histogram=histogram), Progress()) for _ in range(2)]
    for number in range(4):
        result = _result(number, number, histogram=histogram)
        tallies[0].add(result)
        tallies[1].add(from_stored(as_stored(result)))
    for tally in tallies:
        assert tally.histogram() == ([(2, 6)] if histogram else None)
        assert [each.tolist() for each in tally.totals()] == [[1], [12]]
