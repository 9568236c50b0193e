"""The handler of reports: share a result, or count the partitions of a run, store the result, and name each failure."""

import asyncio
from collections import deque
from dataclasses import dataclass

import psycopg2
import structlog
from uuid_utils.compat import uuid7

from consumers.reports.counting import UnexpectedFormat
from consumers.reports.keeping import Keeper, Keepers
from consumers.reports.lanes import LaneLost, Lanes, LanesUnavailable
from consumers.reports.partition import NotConfigured, Partition, PartitionResult, Snapshot, SnapshotLost
from consumers.reports.plan import plan
from consumers.reports.results import arrange, digest
from consumers.reports.tally import Tally, as_stored, from_stored, instant
from infra.monitoring import metrics
from infra.postgres.errors import BadData, PostgresError, classify
from infra.postgres.report_results import ReportResults, Result
from infra.postgres.report_runs import LeaseLost, ReportRuns, Run
from infra.postgres.totals import Totals
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome, Verdict
from jobs.reports import ReportParameters

log = structlog.get_logger()

CALL_SECONDS = 60.0  # of a short transaction; the server ends it earlier
TRIES = 3  # of a partition whose process dies
RESTARTS = 3  # of one attempt whose snapshots are lost
_UNSTORED = 1  # results of partitions a lane that wait to be stored, while the next one is counted

# Reason codes by SQLSTATE. Every other error is "database_unavailable".
_REASONS = {
    "42P01": "posts_missing",
    "42703": "posts_changed",
    "42501": "posts_forbidden",
    "57014": "statement_timeout",
    "55P03": "lock_timeout",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "53300": "too_many_connections",
    "58030": "io_error",
    "XX001": "data_corrupted",
    "XX002": "data_corrupted",
}


@dataclass(eq=False)
class Reporter:
    """Computes reports. `timeout_seconds`: the longest time of one attempt."""

    runs: ReportRuns
    results: ReportResults
    totals: Totals
    keepers: Keepers
    lanes: Lanes
    timeout_seconds: float

    async def compute(self, job: Claimed, progress: Progress) -> Outcome:
        """Compute a report. What a failed, killed or cancelled attempt has stored is used by the next one."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                await self._compute(job, ReportParameters.from_body(job.body), progress)
        except Exception as error:
            outcome = _outcome(error)
            if outcome is None:
                raise
            log.warning("report.failed", id=str(job.id), version=job.version, reason=outcome.reason, error=str(error))
            return outcome
        finally:
            self.keepers.prepare()
        return Outcome(Verdict.ACCEPTED)

    def close(self) -> None:
        """End the lanes and the spare keeper. It blocks."""
        self.lanes.close()
        self.keepers.close()

    async def _compute(self, job: Claimed, parameters: ReportParameters, progress: Progress) -> None:
        if await self._share(job, parameters, progress):
            await self.runs.delete(job, CALL_SECONDS)
            return
        run, keeper, restarts = await self.runs.load(job.id, CALL_SECONDS), None, 0
        while True:
            if run is None:
                run, keeper = await self._begin(job, 0)
            tally = Tally(run, parameters, progress, _estimate(keeper, parameters))
            try:
                await self._count(job, tally)
                break
            except SnapshotLost as error:
                restarts += 1
                if restarts > RESTARTS:
                    raise
                log.warning(
                    "report.restarted",
                    id=str(job.id),
                    version=job.version,
                    restarts=run.restarts + 1,
                    reason=str(error),
                    effect="every partition is counted again, on a new snapshot",
                )
                run, keeper = await self._begin(job, run.restarts + 1)
        await self._store(job, tally)
        if keeper is not None:
            await keeper.end()

    async def _share(self, job: Claimed, parameters: ReportParameters, progress: Progress) -> bool:
        """Copy the result of an equal report of the same posts. False: there is none."""
        shared = await self.results.find_shared(parameters.to_json(), CALL_SECONDS)
        if shared is None or not await self.results.copy(job, shared, CALL_SECONDS):
            return False
        log.info("report.shared", id=str(job.id), version=job.version, source=str(shared.job_id))
        progress.done = progress.estimate = shared.posts
        progress.detail = {"partitions": 0, "of_partitions": 0, "snapshot_at": instant(shared.snapshot_at), "restarts": 0}
        return True

    async def _begin(self, job: Claimed, restarts: int) -> tuple[Run, Keeper]:
        """Begin a run on a new snapshot. The earlier run is deleted first: a keeper ends when it sees another."""
        lanes = await self.lanes.open()
        await self.runs.delete(job, CALL_SECONDS)
        keeper = await self.keepers.start(job.id)
        kept = keeper.kept
        bounds = plan(kept["low"], kept["high"], kept["estimate"], lanes)
        run = Run(uuid7(), kept["snapshot"], keeper.snapshot_at, kept["posts_version"], bounds, restarts)
        try:
            await self.runs.create(job, run, CALL_SECONDS)
        except BaseException:
            keeper.process.terminate()
            raise
        return run, keeper

    async def _count(self, job: Claimed, tally: Tally) -> None:
        """Count the partitions that are not stored, and store each. The first failure ends all lanes."""
        async for stored in self.runs.stored(tally.run.id, CALL_SECONDS):
            tally.add(from_stored(stored))
        tally.begin()
        missing = deque(tally.missing())
        if not missing:
            return
        lanes = min(await self.lanes.open(), len(missing))
        unstored = asyncio.Semaphore(_UNSTORED * lanes)
        try:
            async with asyncio.TaskGroup() as group:

                async def store(result: PartitionResult) -> None:
                    try:
                        await self.runs.store(job, tally.run.id, as_stored(result), CALL_SECONDS)
                    finally:
                        unstored.release()
                    metrics.REPORT_ROWS.inc(result.posts)
                    tally.add(result)
                    tally.show()

                async def work(lane: int) -> None:
                    while missing:
                        result = await self._count_one(job, lane, tally, missing.popleft())
                        await unstored.acquire()
                        group.create_task(store(result))

                for lane in range(lanes):
                    group.create_task(work(lane))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _count_one(self, job: Claimed, lane: int, tally: Tally, number: int) -> PartitionResult:
        """Count one partition, again if its process dies."""
        low, high = tally.run.bounds[number : number + 2]
        partition = Partition(number, low, high, Snapshot.parse(tally.run.snapshot), tally.parameters)
        for tries in range(1, TRIES + 1):
            try:
                return await self.lanes.count(lane, partition)
            except LaneLost as error:
                log.warning("report.process_lost", id=str(job.id), version=job.version, partition=number, reason=str(error))
                if tries == TRIES:
                    raise
        raise AssertionError("unreachable")

    async def _store(self, job: Claimed, tally: Tally) -> None:
        """Store the result, then forget the run."""
        users, words = tally.totals()
        rows, histogram = arrange(users, words, tally.parameters), tally.histogram()
        is_ordered = tally.parameters.order == "words"
        if not await self.totals.store(job, rows.batches(), CALL_SECONDS, ordered=is_ordered):
            raise LeaseLost
        result = Result(
            posts=tally.posts,
            users=len(users),
            words=int(words.sum()),
            snapshot_at=tally.run.snapshot_at,
            parameters=tally.parameters.to_json(),
            posts_version=tally.run.posts_version,
            histogram=histogram,
            sha256=await asyncio.to_thread(digest, rows, histogram),
        )
        await self.results.store(job, result, CALL_SECONDS)
        await self.runs.delete(job, CALL_SECONDS)


def _estimate(keeper: Keeper | None, parameters: ReportParameters) -> int | None:
    """Postgres' estimate of the posts; it is of no use for some of them."""
    is_of_all = parameters.start is None and parameters.end is None and parameters.user_ids is None
    return keeper.kept["estimate"] if keeper is not None and is_of_all else None


def _outcome(error: Exception) -> Outcome | None:
    """The outcome of a failed attempt. None: the error is a bug."""
    classified = classify(error) if isinstance(error, psycopg2.Error) else error
    match classified:
        case TimeoutError():
            return Outcome(Verdict.RETRYABLE, "report_timeout")
        case LeaseLost():  # another claim has the job, so the ledger rejects this outcome
            return Outcome(Verdict.RETRYABLE, "lease_lost")
        case SnapshotLost():
            return Outcome(Verdict.RETRYABLE, "snapshot_lost")
        case LaneLost():
            return Outcome(Verdict.RETRYABLE, "process_lost")
        case NotConfigured():
            return Outcome(Verdict.RETRYABLE, "worker_not_configured")
        case UnexpectedFormat():
            return Outcome(Verdict.RETRYABLE, "posts_changed")
        case LanesUnavailable():
            return Outcome(Verdict.RETRYABLE, "scheduler_unavailable")
        case BadData():
            return Outcome(Verdict.REJECTED, "bad_data")
        case PostgresError():
            return Outcome(Verdict.RETRYABLE, _REASONS.get(classified.sqlstate or "", "database_unavailable"))
    return None
