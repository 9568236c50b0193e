"""The result of a report from its sums: the order, the limit, and the digest."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from consumers.reports.counting import Integers
from infra.postgres.totals import BATCH, Batch
from jobs.reports import ReportParameters


@dataclass(frozen=True, slots=True)
class Rows:
    """The totals of a result in their order: `words[n]` are those of `users[n]`."""

    users: Integers
    words: Integers

    def batches(self) -> Iterator[Batch]:
        """All rows, some at a time, as Python's integers."""
        for at in range(0, len(self.users), BATCH):
            yield self.users[at : at + BATCH].tolist(), self.words[at : at + BATCH].tolist()


def arrange(users: Integers, words: Integers, parameters: ReportParameters) -> Rows:
    """The rows of a result from the totals of all users, which ascend by user id."""
    chosen = np.arange(len(users))
    if parameters.order == "words" or parameters.limit is not None:
        chosen = np.argsort(-words, kind="stable")[: parameters.limit]  # stable: equal totals ascend by user id
    if parameters.order == "user_id":
        chosen = np.sort(chosen)
    return Rows(users[chosen], words[chosen])


def digest(rows: Rows, histogram: list[tuple[int, int]] | None) -> bytes:
    """The SHA-256 of a result, whatever the format of its answer.

    It is that of the CSV file of the totals: a line `user_id,total_words`, then a line for each row, each ended by CR LF. A
    histogram follows in the same way: a line `words,posts`, then a line for each pair.
    """
    sha256 = hashlib.sha256(b"user_id,total_words\r\n")
    for users, words in rows.batches():
        sha256.update("".join(f"{user},{total}\r\n" for user, total in zip(users, words, strict=True)).encode())
    if histogram is not None:
        sha256.update("".join(["words,posts\r\n", *(f"{words},{posts}\r\n" for words, posts in histogram)]).encode())
    return sha256.digest()
