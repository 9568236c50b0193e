"""The handler of reports: reads every post in one snapshot, counts its words in Python, and stores the totals."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import sqlalchemy as sa

from infra.postgres.errors import BadData, DeadlinePassed, PostgresError
from infra.postgres.posts import about_how_many, texts
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome, Verdict
from jobs.words import total_words

STORE_SECONDS = 60.0

# Reason codes by SQLSTATE. Every other error is "database_unavailable".
_REASONS = {
    "42P01": "posts_missing",
    "42703": "posts_changed",
    "42501": "posts_forbidden",
    "57014": "statement_timeout",
    "55P03": "lock_timeout",
}


class DatabasePool(Protocol):
    """The part of the pool that reports use. A call blocks one of its threads for the whole report."""

    async def call(self, work: Callable[[sa.Connection], dict[int, int]], timeout: float) -> dict[int, int]: ...


class Totals(Protocol):
    """The part of the totals that reports use. `store` returns False if the lease is lost."""

    async def store(self, job: Claimed, totals: Mapping[int, int], timeout: float) -> bool: ...


class CountWords:
    """Computes one report within `timeout_seconds`. It has no side effects before the totals are stored."""

    timeout_seconds = 0.0  # the lease is renewed during the call

    def __init__(self, pool: DatabasePool, totals: Totals, *, timeout_seconds: float):
        self._pool = pool
        self._totals = totals
        self._limit = timeout_seconds

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome:
        try:
            totals = await self._pool.call(lambda connection: _count(connection, progress), self._limit)
            stored = await self._totals.store(job, totals, STORE_SECONDS)
        except DeadlinePassed:
            return Outcome(Verdict.RETRYABLE, "report_timeout")
        except PostgresError as error:
            return Outcome(Verdict.RETRYABLE, _REASONS.get(error.sqlstate or "", "database_unavailable"))
        except BadData:
            return Outcome(Verdict.REJECTED, "bad_data")
        # Not stored: another claim has the job, so the ledger rejects this outcome.
        return Outcome(Verdict.ACCEPTED if stored else Verdict.RETRYABLE, None if stored else "lease_lost")


def _count(connection: sa.Connection, progress: Progress) -> dict[int, int]:
    progress.estimate = about_how_many(connection)
    return total_words(_with_progress(texts(connection), progress))


def _with_progress(posts: Iterator[tuple[int, str]], progress: Progress) -> Iterator[tuple[int, str]]:
    for count, post in enumerate(posts, 1):
        progress.done = count
        yield post
