"""Handlers: each executes one claimed job and returns its outcome. They never acknowledge, commit, or raise to mean "retry"."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import sqlalchemy as sa

from consumers.hosts import Hosts, Receiver, host_of
from infra.monitoring import metrics
from infra.postgres.errors import BadData, DeadlinePassed, PostgresError
from infra.postgres.posts import about_how_many, texts
from infra.providers.http import HttpProvider
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome, Verdict
from jobs.words import total_words

STORE_SECONDS = 60.0
ROWS_COUNTED = 1000  # posts between two increments of the metric

# Reason codes by SQLSTATE. Every other error is "database_unavailable".
_REASONS = {
    "42P01": "posts_missing",
    "42703": "posts_changed",
    "42501": "posts_forbidden",
    "57014": "statement_timeout",
    "55P03": "lock_timeout",
}


class CallbackSender(Protocol):
    async def send(self, url: str, id_: str, body: str) -> Outcome: ...


class DatabasePool(Protocol):
    """A call blocks one of the pool's threads for the whole report."""

    async def call(self, work: Callable[[sa.Connection], dict[int, int]], timeout: float) -> dict[int, int]: ...


class Totals(Protocol):
    """`store` returns False if the lease is lost."""

    async def store(self, job: Claimed, totals: Mapping[int, int], timeout: float) -> bool: ...


async def send_message(provider: HttpProvider, job: Claimed, progress: Progress) -> Outcome:
    """Send a message through its provider."""
    assert job.destination is not None and job.body is not None  # every message has both
    started = time.perf_counter()
    outcome = await provider.send(job.destination, job.body, job.idempotency_key)
    metrics.PROVIDER_SECONDS[job.queue.provider or "", outcome.verdict].observe(time.perf_counter() - started)
    return outcome


async def send_callback(sender: CallbackSender, hosts: Hosts, job: Claimed, progress: Progress) -> Outcome:
    """Post a callback to its URL. The event id is the job id."""
    assert job.destination is not None and job.body is not None  # every callback has both
    url, body = job.destination, job.body
    return await hosts.call(Receiver(job.client_id, host_of(url)), lambda: _send_measured(sender, url, str(job.id), body))


async def _send_measured(sender: CallbackSender, url: str, id_: str, body: str) -> Outcome:
    started = time.perf_counter()
    outcome = await sender.send(url, id_, body)
    metrics.CALLBACK_SECONDS[outcome.verdict,].observe(time.perf_counter() - started)
    return outcome


async def count_words(pool: DatabasePool, totals: Totals, seconds: float, job: Claimed, progress: Progress) -> Outcome:
    """Compute a report: read every post in one snapshot, count its words in Python, and store the totals.

    The counting takes at most `seconds`, and has no side effects before the totals are stored.
    """
    try:
        words = await pool.call(lambda connection: _count(connection, progress), seconds)
        is_stored = await totals.store(job, words, STORE_SECONDS)
    except DeadlinePassed:
        return Outcome(Verdict.RETRYABLE, "report_timeout")
    except PostgresError as error:
        return Outcome(Verdict.RETRYABLE, _REASONS.get(error.sqlstate or "", "database_unavailable"))
    except BadData:
        return Outcome(Verdict.REJECTED, "bad_data")
    # Not stored: another claim has the job, so the ledger rejects this outcome.
    return Outcome(Verdict.ACCEPTED) if is_stored else Outcome(Verdict.RETRYABLE, "lease_lost")


def _count(connection: sa.Connection, progress: Progress) -> dict[int, int]:
    progress.estimate = about_how_many(connection)
    return total_words(_with_progress(texts(connection), progress))


def _with_progress(posts: Iterator[tuple[int, str]], progress: Progress) -> Iterator[tuple[int, str]]:
    for count, post in enumerate(posts, 1):
        progress.done = count
        if not count % ROWS_COUNTED:
            metrics.REPORT_ROWS.inc(ROWS_COUNTED)
        yield post
    metrics.REPORT_ROWS.inc(progress.done % ROWS_COUNTED)
