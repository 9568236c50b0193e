"""Reports on the test's own database, with lanes in the test's process unless a test needs real ones."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from consumers.reports.keeping import Keepers
from consumers.reports.lanes import Lanes
from consumers.reports.partition import Partition, PartitionResult, count_partition
from consumers.reports.run import Reporter
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import Post, texts
from infra.postgres.report_results import ReportResults
from infra.postgres.report_runs import ReportRuns
from infra.postgres.totals import Totals
from jobs.decision import decide
from jobs.model import Claimed, Progress
from jobs.outcome import Outcome, Verdict
from jobs.reports import ReportParameters
from jobs.retry import RetryPolicy
from jobs.words import total_words
from tests.support.factories import claim_request, report
from tests.support.ledger import Store
from tests.support.waiting import until

SECONDS = 10.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = [  # white space, backslashes, control and wide characters
    "",
    "  ",
    "one",
    "tab\there",
    "line\nfeed\r\n",
    "back\\slash \\n \\N \\.",
    "no\u00a0break \x85 \u3000",
    "\x01 \x1c\x1f 😀 é",
]
MANY = 10_000  # posts: five partitions
KEEPERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'posthaste report snapshot'"
)


@dataclass
class Threads:
    """Lanes that are threads. `before` runs in the event loop before each partition. `counted`: their numbers, in order."""

    url: str
    lanes: int = 2
    before: Callable[[Partition], object] = lambda partition: None
    counted: list[int] = field(default_factory=list)

    async def open(self) -> int:
        return self.lanes

    async def count(self, lane: int, partition: Partition) -> PartitionResult:
        self.before(partition)
        result = await asyncio.to_thread(count_partition, replace(partition, url=self.url))
        self.counted.append(partition.number)
        return result

    def close(self) -> None: ...


def reporter_of(store: Store, lanes: Lanes, cap_seconds: float = 600.0, timeout_seconds: float = 120.0) -> Reporter:
    pool = store.pool
    keepers = Keepers(store.database, cap_seconds)
    return Reporter(ReportRuns(pool), ReportResults(pool), Totals(pool), keepers, lanes, timeout_seconds)


async def accept(store: Store, parameters: ReportParameters | None = None) -> UUID:
    """Accept a report."""
    new = replace(report(), body=(parameters or ReportParameters()).to_body())
    await store.ledger.accept([new], SECONDS)
    return new.id


async def claim(store: Store, id_: UUID, lease: float = 60.0) -> Claimed:
    """Claim a report at its present version."""
    ((version,),) = store.rows(f"SELECT version FROM jobs WHERE id = '{id_}'")
    (job,) = await store.ledger.claim([claim_request(id_, int(str(version)), lease)], SECONDS)
    assert job is not None
    return job


async def end(store: Store, job: Claimed, outcome: Outcome) -> None:
    """Record the outcome of a claim."""
    step = decide(job, outcome, RetryPolicy(), ran_seconds=1, jitter=0)
    assert await store.ledger.apply([step], SECONDS) != [None]


async def computed(store: Store, lanes: Lanes, parameters: ReportParameters | None = None) -> tuple[UUID, Progress]:
    """Accept a report, compute it, and record that it is completed."""
    id_ = await accept(store, parameters)
    job, progress = await claim(store, id_), Progress()
    outcome = await reporter_of(store, lanes).compute(job, progress)
    assert outcome.verdict is Verdict.ACCEPTED, outcome
    await end(store, job, outcome)
    return id_, progress


def rows_of(store: Store, id_: UUID) -> list[tuple[int, int]]:
    """The rows of a completed report, in their order."""
    found = store.rows(f"""SELECT t.user_id, t.total_words FROM jobs j
        JOIN report_totals t ON t.job_id = j.id AND t.claim_token = j.claim_token
        WHERE j.id = '{id_}' AND j.status = 'completed' ORDER BY coalesce(t.position, 0), t.user_id""")
    return [(int(str(user)), int(str(words))) for user, words in found]


async def expected(url: str) -> list[tuple[int, int]]:
    """The totals as 1.0 counts them."""
    pool = DatabasePool(url, name="test", threads=1, scans=True)
    totals = await pool.call(lambda connection: total_words(texts(connection)), SECONDS)
    pool.close()
    return sorted(totals.items())


def many_posts(count: int = MANY, users: int = 50) -> Iterator[Post]:
    """Posts of `users` users with all of `TEXTS`."""
    return (
        Post(n % users - 3, f"{'word ' * (n % 9)}{TEXTS[n % len(TEXTS)]}", NOW + timedelta(seconds=n)) for n in range(count)
    )


def keepers_of(store: Store) -> list[tuple[object, ...]]:
    """The sessions of keepers."""
    return store.rows(KEEPERS)


async def no_keeper(store: Store) -> None:
    """Wait until no keeper runs."""
    await until(lambda: keepers_of(store), lambda found: not found)
