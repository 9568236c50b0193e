"""Outcomes of a report: each failure has its reason, and a process that dies costs a bounded number of tries."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import numpy as np
import psycopg2
import pytest

from consumers.reports import run as room
from consumers.reports.keeping import Keepers
from consumers.reports.lanes import LaneLost, LanesUnavailable
from consumers.reports.partition import Partition, PartitionResult, SnapshotLost
from consumers.reports.run import Reporter
from infra.postgres.errors import BadData, DeadlinePassed, TryAgain, Unavailable
from infra.postgres.report_runs import LeaseLost, Run, StoredPartition
from jobs.model import REPORTS, Progress
from jobs.outcome import Outcome, Verdict
from tests.support.factories import claimed

RUN = Run(uuid4(), "snapshot content", datetime(2026, 1, 1, tzinfo=UTC), None, [0, 10, 20, 30, 40], 0)
DEAD = psycopg2.OperationalError("the server closed the connection")


class Runs:
    """Keeps one run in memory."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.kept: dict[int, StoredPartition] = {}
        self.created: list[Run] = []
        self.deleted = False

    async def load(self, *_: Any) -> Run:
        if self.error is not None:
            raise self.error
        return RUN

    async def create(self, job: Any, run: Run, timeout: float) -> None:
        self.created.append(run)
        self.kept.clear()

    async def stored(self, *_: Any) -> AsyncIterator[StoredPartition]:
        for partition in self.kept.values():
            yield partition

    async def store(self, job: Any, run_id: Any, partition: StoredPartition, timeout: float) -> None:
        self.kept[partition.number] = partition

    async def delete(self, *_: Any) -> None:
        self.deleted = True


class Results:
    """Shares nothing, and stores while the worker holds the job."""

    def __init__(self, *, ours: bool = True):
        self.ours = ours

    async def find_shared(self, *_: Any) -> None: ...

    async def store(self, *_: Any, **__: Any) -> bool:
        if not self.ours:
            raise LeaseLost
        return True


class Lanes:
    """Counts one word a partition; the first calls raise `errors`."""

    def __init__(self, *errors: Exception, forever: bool = False):
        self.errors = list(errors)
        self.counted: list[int] = []
        self.forever = forever

    async def open(self) -> int:
        return 2

    async def count(self, lane: int, partition: Partition) -> PartitionResult:
        if self.forever:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        self.counted.append(partition.number)
        return PartitionResult(partition.number, 1, np.array([7], np.int64), np.array([1], np.int64))

    def close(self) -> None: ...


class Keeper:
    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.kept = {"snapshot": "another one", "posts_version": None, "low": 1, "high": 4, "estimate": 4}
        self.snapshot_at = datetime(2026, 1, 2, tzinfo=UTC)
        self.prepared = 0

    async def start(self, *_: Any) -> "Keeper":
        assert self.runs.deleted, "a keeper that sees another run ends"
        return self

    async def end(self) -> None: ...

    def prepare(self) -> None:
        self.prepared += 1


async def _computed(
    lanes: Lanes, runs: Runs | None = None, results: Results | None = None, seconds: float = 60
) -> tuple[Outcome, Progress]:
    progress, runs, found = Progress(), runs or Runs(), cast(Any, results or Results())
    keeper = Keeper(runs)
    reporter = Reporter(cast(Any, runs), found, found, cast(Keepers, keeper), lanes, seconds)
    outcome = await reporter.compute(replace(claimed(queue=REPORTS), body=None), progress)
    assert keeper.prepared == 1, "the next report has a spare keeper, whatever the outcome"
    return outcome, progress


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TryAgain("", "57014"), "statement_timeout"),
        (TryAgain("", "55P03"), "lock_timeout"),
        (TryAgain("", "40P01"), "database_unavailable"),
        (Unavailable("", "42P01"), "posts_missing"),
        (Unavailable("", "42703"), "posts_changed"),
        (Unavailable("", "42501"), "posts_forbidden"),
        (Unavailable("", "53100"), "disk_full"),
        (Unavailable("", "53200"), "out_of_memory"),
        (Unavailable("", "53300"), "too_many_connections"),
        (Unavailable("the connection was lost"), "database_unavailable"),
        (DeadlinePassed("too long"), "database_unavailable"),
        (LeaseLost(), "lease_lost"),
    ],
)
async def test_transient_failures_are_retried_and_named(error: Exception, reason: str) -> None:
    outcome, _ = await _computed(Lanes(), Runs(error))
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRYABLE, reason)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DEAD, "database_unavailable"),
        (LanesUnavailable("no worker"), "scheduler_unavailable"),
        (LaneLost("killed"), "process_lost"),
        (SnapshotLost("gone"), "snapshot_lost"),
    ],
)
async def test_a_partition_that_fails_again_and_again_ends_the_attempt(error: Exception, reason: str) -> None:
    outcome, _ = await _computed(Lanes(*[error] * 1000))
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRYABLE, reason)


async def test_unstorable_totals_end_the_report() -> None:
    outcome, _ = await _computed(Lanes(), Runs(BadData("")))
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECTED, "bad_data")


@pytest.mark.parametrize(("ours", "verdict"), [(True, Verdict.ACCEPTED), (False, Verdict.RETRYABLE)])
async def test_only_totals_that_were_stored_complete_it(ours: bool, verdict: Verdict) -> None:
    outcome, _ = await _computed(Lanes(), results=Results(ours=ours))
    assert outcome.verdict is verdict


async def test_a_report_that_takes_too_long_is_retried() -> None:
    outcome, _ = await _computed(Lanes(forever=True), seconds=0.05)
    assert (outcome.verdict, outcome.reason) == (Verdict.RETRYABLE, "report_timeout")


async def test_a_bug_is_no_outcome() -> None:
    with pytest.raises(ZeroDivisionError):
        await _computed(Lanes(ZeroDivisionError()))


async def test_a_partition_whose_process_dies_is_counted_again() -> None:
    lanes = Lanes(*[LaneLost("killed")] * (room.TRIES - 1))
    outcome, progress = await _computed(lanes)
    assert (outcome.verdict, sorted(lanes.counted)) == (Verdict.ACCEPTED, [0, 1, 2, 3])
    assert (progress.done, progress.estimate) == (4, 4)


async def test_stored_partitions_are_not_counted_again() -> None:
    lanes, runs = Lanes(), Runs()
    runs.kept = {number: StoredPartition(number, 1, [7], [1]) for number in (0, 2)}
    outcome, progress = await _computed(lanes, runs)
    assert (outcome.verdict, sorted(lanes.counted)) == (Verdict.ACCEPTED, [1, 3])
    assert progress.done == 4


async def test_a_lost_snapshot_begins_the_report_again() -> None:
    lanes, runs = Lanes(SnapshotLost("gone")), Runs()
    runs.kept = {0: StoredPartition(0, 100, [7], [100])}
    outcome, progress = await _computed(lanes, runs)
    assert (outcome.verdict, [run.restarts for run in runs.created]) == (Verdict.ACCEPTED, [1])
    assert (progress.done, progress.detail and progress.detail["restarts"]) == (1, 1)
