"""Outcomes of a report when Postgres fails: each has its reason."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from consumers.handlers import count_words
from infra.postgres.errors import BadData, DeadlinePassed, TryAgain, Unavailable
from jobs.model import REPORTS, Claimed, Progress
from jobs.outcome import Verdict
from tests.support.factories import claimed


class DatabasePool:
    """Raises an error, or counts nothing."""

    def __init__(self, error: Exception | None = None):
        self.error = error

    async def call(self, work: Callable[[Any], Any], timeout: float) -> dict[int, int]:
        if self.error is not None:
            raise self.error
        return {1: 2}


class Totals:
    """Stores totals while the worker holds the job."""

    def __init__(self, *, ours: bool = True):
        self.ours = ours

    async def store(self, job: Claimed, totals: Mapping[int, int], timeout: float) -> bool:
        return self.ours


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TryAgain("", "57014"), "statement_timeout"),
        (TryAgain("", "55P03"), "lock_timeout"),
        (TryAgain("", "40P01"), "database_unavailable"),
        (Unavailable("", "42P01"), "posts_missing"),
        (Unavailable("", "42703"), "posts_changed"),
        (Unavailable("", "42501"), "posts_forbidden"),
        (Unavailable("the connection was lost"), "database_unavailable"),
        (DeadlinePassed("too long"), "report_timeout"),
    ],
)
async def test_transient_failures_are_retried_and_named(error: Exception, reason: str) -> None:
    outcome = await count_words(DatabasePool(error), Totals(), 1, claimed(queue=REPORTS), Progress())
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRYABLE, reason)


async def test_unstorable_totals_end_the_report() -> None:
    outcome = await count_words(DatabasePool(BadData("")), Totals(), 1, claimed(queue=REPORTS), Progress())
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECTED, "bad_data")


@pytest.mark.parametrize(("ours", "verdict"), [(True, Verdict.ACCEPTED), (False, Verdict.RETRYABLE)])
async def test_only_totals_that_were_stored_complete_it(ours: bool, verdict: Verdict) -> None:
    outcome = await count_words(DatabasePool(), Totals(ours=ours), 1, claimed(queue=REPORTS), Progress())
    assert outcome.verdict is verdict
