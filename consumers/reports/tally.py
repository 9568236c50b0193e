"""The tally of a report: the sums of the partitions that are counted, and the progress that follows from them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from consumers.reports.counting import Integers
from consumers.reports.partition import PartitionResult
from consumers.reports.sums import Sums
from infra.postgres.report_runs import Run, StoredPartition
from jobs.model import Progress
from jobs.reports import ReportParameters


def as_stored(result: PartitionResult) -> StoredPartition:
    """A result with Python's integers, for the database."""
    of_lengths = (None if each is None else each.tolist() for each in (result.lengths, result.length_posts))
    return StoredPartition(result.number, result.posts, result.users.tolist(), result.words.tolist(), *of_lengths)


def from_stored(stored: StoredPartition) -> PartitionResult:
    """The inverse of `as_stored`."""
    of_lengths = (None if each is None else np.array(each, np.int64) for each in (stored.lengths, stored.length_posts))
    users, words = np.array(stored.users, np.int64), np.array(stored.words, np.int64)
    return PartitionResult(stored.number, stored.posts, users, words, *of_lengths)


def instant(at: datetime) -> str:
    """An instant as the API shows it."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(eq=False)
class Tally:
    """Sums the results of a run's partitions. `estimate`: the number of all posts, None if unknown.

    Memory is bounded by the users, and by the distinct lengths of posts with a histogram.
    """

    run: Run
    parameters: ReportParameters
    progress: Progress
    estimate: int | None = None
    monotonic: Callable[[], float] = time.monotonic
    posts: int = 0
    done: set[int] = field(default_factory=set)
    users: Sums = field(default_factory=Sums)
    lengths: Sums = field(default_factory=Sums)
    _began: float = 0.0
    _resumed_posts: int = 0
    _resumed: int = 0

    def add(self, result: PartitionResult) -> None:
        """Add the result of a partition, once."""
        assert result.number not in self.done
        self.done.add(result.number)
        self.posts += result.posts
        self.users.add(result.users, result.words)
        if result.lengths is not None and result.length_posts is not None:
            self.lengths.add(result.lengths, result.length_posts)

    def begin(self) -> None:
        """Measure the rate from now on: the partitions so far were counted before."""
        self._began, self._resumed_posts, self._resumed = self.monotonic(), self.posts, len(self.done)
        self.show()

    def missing(self) -> list[int]:
        """The numbers of the partitions that are not counted."""
        return [number for number in range(self.run.partitions) if number not in self.done]

    def histogram(self) -> list[tuple[int, int]] | None:
        """Pairs of words and posts, ascending; None if the report has no histogram."""
        if not self.parameters.histogram:
            return None
        lengths, posts = self.lengths.result()
        return list(zip(lengths.tolist(), posts.tolist(), strict=True))

    def totals(self) -> tuple[Integers, Integers]:
        """The users, ascending, and their words."""
        return self.users.result()

    def show(self) -> None:
        """Update the progress of the job."""
        done, count = len(self.done), self.run.partitions
        seconds, counted = self.monotonic() - self._began, done - self._resumed
        is_measured = counted > 0 and seconds > 0
        self.progress.done = self.posts
        self.progress.estimate = self.posts * count // done if self.estimate is None and done else self.estimate
        self.progress.detail = {
            "partitions": done,
            "of_partitions": count,
            "posts_per_second": round((self.posts - self._resumed_posts) / seconds) if is_measured else None,
            "seconds_left": round((count - done) * seconds / counted, 1) if is_measured else None,
            "snapshot_at": instant(self.run.snapshot_at),
            "restarts": self.run.restarts,
        }
