"""Retention: jobs are deleted after their retention time, and on request by destination. One batch is one transaction.

Attempts, results, runs of reports and tags are deleted with their job. Locked rows are skipped.
"""

from collections.abc import AsyncIterator

import sqlalchemy as sa

from infra.postgres.errors import TryAgain
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.sql import in_list
from jobs.lifecycle import ENDS, Status
from jobs.model import Kind

BATCH = 1000
BATCH_SECONDS = 10.0
LONGEST_SECONDS = 300.0  # for one job
ANSWER_SECONDS = 5.0  # for the server's error after a batch that took too long
_DEAD = frozenset({Status.FAILED, Status.UNKNOWN})  # until an operator has handled them
_PURGEABLE = in_list(ENDS - _DEAD)

_DELETE = """
WITH old AS (
    SELECT id FROM jobs WHERE {which} LIMIT :limit FOR UPDATE {lock}
), tags AS (
    DELETE FROM message_tags t USING old WHERE t.job_id = old.id
), copies AS (
    DELETE FROM outbox o USING old WHERE o.job_id = old.id
)
DELETE FROM jobs j USING old WHERE j.id = old.id
"""

# The server ends a batch that takes too long: the next one would skip rows that an abandoned batch still locks.
_OLD = f"kind = :kind AND status IN ({_PURGEABLE}) AND finished_at < now() - :seconds * interval '1 second'"
_PURGE = sa.text("SET LOCAL statement_timeout = :milliseconds;" + _DELETE.format(lock="SKIP LOCKED", which=_OLD))
_COUNT_OLD = sa.text(f"SELECT count(*) FROM jobs WHERE {_OLD}")  # noqa: S608  constants

# A completed report deletes its own. A failed one may have left its run, and begins again after a requeue.
_FORGET_RUNS = sa.text(f"""
DELETE FROM report_runs r USING jobs j WHERE j.id = r.job_id AND j.status IN ({in_list(ENDS)})
""")  # noqa: S608  a constant

# A callback repeats data of its message, and only the message links it to its destination: callbacks are deleted first.
_MESSAGES = "kind = 'message' AND destination = :destination AND client_id = coalesce(:client_id, client_id)"
_ENDED = f"{_MESSAGES} AND status IN ({in_list(ENDS)})"
_OF_ENDED = "kind = 'callback' AND parent_id IN (SELECT id FROM jobs WHERE {ended})"
_ERASE_CALLBACKS = sa.text(_DELETE.format(lock="", which=_OF_ENDED.format(ended=_ENDED)))
_ERASE_MESSAGES = sa.text(_DELETE.format(lock="", which=_ENDED))
_COUNT_ENDED = sa.text(f"SELECT count(*) FROM jobs WHERE {_ENDED}")  # noqa: S608  constants
_UNDER_WAY = sa.text(f"SELECT count(*) FROM jobs WHERE {_MESSAGES} AND status NOT IN ({in_list(ENDS)})")  # noqa: S608  constants


class Retention:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def purge(self, kind: Kind, seconds: float, timeout: float, limit: int = BATCH) -> int:
        """Delete at most `limit` jobs of a kind that ended `seconds` ago; dead letters stay. Returns how many.

        Raises:
            TryAgain: it takes longer than `timeout`; nothing was deleted.
        """
        parameters = {"kind": kind, "seconds": seconds, "limit": limit, "milliseconds": int(timeout * 1000)}
        return await self._pool.execute(_PURGE, timeout + ANSWER_SECONDS, **parameters)

    async def count(self, kind: Kind, seconds: float, timeout: float) -> int:
        """The number of jobs that `purge_all` deletes."""
        return int(await self._pool.value(_COUNT_OLD, timeout, kind=kind, seconds=seconds))

    async def purge_all(self, kind: Kind, seconds: float) -> AsyncIterator[int]:
        """Delete every job of a kind that ended `seconds` ago; yields the number of each batch. Raises as `purge`.

        A batch that takes too long is divided, because one report may have millions of totals.
        """
        limit = BATCH
        while True:
            try:
                count = await self.purge(kind, seconds, BATCH_SECONDS if limit > 1 else LONGEST_SECONDS, limit)
            except TryAgain:
                if limit == 1:
                    raise
                limit = max(1, limit // 10)
                continue
            yield count
            if count < limit:
                return

    async def forget_runs(self, timeout: float) -> int:
        """Delete the runs of ended reports with their partitions; returns how many."""
        return await self._pool.execute(_FORGET_RUNS, timeout)

    async def erase(self, destination: str, client_id: str | None, timeout: float, limit: int = BATCH) -> int:
        """Delete at most `limit` ended messages to a destination, or their callbacks; returns how many."""
        parameters = {"destination": destination, "client_id": client_id, "limit": limit}
        callbacks = await self._pool.execute(_ERASE_CALLBACKS, timeout, **parameters)
        return callbacks or await self._pool.execute(_ERASE_MESSAGES, timeout, **parameters)

    async def ended(self, destination: str, client_id: str | None, timeout: float) -> int:
        """The number of messages to a destination that have ended."""
        return int(await self._pool.value(_COUNT_ENDED, timeout, destination=destination, client_id=client_id))

    async def under_way(self, destination: str, client_id: str | None, timeout: float) -> int:
        """The number of messages to a destination that have not ended."""
        return int(await self._pool.value(_UNDER_WAY, timeout, destination=destination, client_id=client_id))
