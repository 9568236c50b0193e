"""`posthaste providers move` changes the provider of waiting messages, and nothing else."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from infra.postgres.providers import ProviderStore
from jobs.lifecycle import TRANSITIONS, Cause, Edge, Status
from jobs.model import Priority
from tests.support.factories import message
from tests.support.services import sql

SECONDS = 10.0


@pytest.fixture
async def pool(database: str) -> AsyncIterator[DatabasePool]:
    pool = DatabasePool(database, name="test", threads=1)
    yield pool
    pool.close()


async def _move(pool: DatabasePool) -> int:
    return await ProviderStore(pool).move("old", "new", Priority.NORMAL, SECONDS)


async def test_a_move_takes_the_steps_of_the_table_and_no_others(pool: DatabasePool, database: str) -> None:
    jobs = {status: message(provider="old") for status in Status}
    await Ledger(pool, grace_seconds=5).accept(list(jobs.values()), SECONDS)
    for status, job in jobs.items():
        sql(database, f"UPDATE jobs SET status = '{status}' WHERE id = '{job.id}'")
    movable = {status for status in Status if Edge(status, status, Cause.MOVE) in TRANSITIONS}
    assert movable == {Status.QUEUED, Status.RETRYING}
    assert await _move(pool) == len(movable)
    after = {row[0]: row[1:] for row in sql(database, "SELECT id::text, status, provider, version FROM jobs")}
    for status, job in jobs.items():
        assert after[str(job.id)] == ((status, "new", 2) if status in movable else (status, "old", 1))


async def test_a_moved_retry_keeps_its_delay(pool: DatabasePool, database: str) -> None:
    job, due = message(provider="old"), datetime.now(UTC) + timedelta(hours=1)
    await Ledger(pool, grace_seconds=5).accept([job], SECONDS)
    sql(database, f"UPDATE jobs SET status = 'retrying', due_at = '{due.isoformat()}'")
    assert await _move(pool) == 1
    assert sql(database, "SELECT due_at FROM jobs") == [(due,)]
    assert sql(database, "SELECT version, queue, due_at FROM outbox") == [(2, "messages.new.normal", due)]
