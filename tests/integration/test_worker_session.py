"""The session that holds a worker's lock."""

import pytest
import sqlalchemy as sa

from infra.postgres.errors import Unavailable
from infra.postgres.leadership import SessionLock, WorkerSession
from infra.postgres.pool import DatabasePool
from tests.support.ledger import ProxiedStore
from tests.support.services import with_port
from tests.support.waiting import eventually

_SETTINGS = sa.text("SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp%' OR name = 'idle_session_timeout'")


async def test_a_lost_session_is_an_error_and_the_lock_is_acquired_again(proxied_store: ProxiedStore) -> None:
    worker = WorkerSession(with_port(proxied_store.database, proxied_store.proxy.port), lease_seconds=60)
    other = SessionLock(DatabasePool(proxied_store.database, name="test", threads=1), worker.worker_id)
    try:
        assert [await worker.held(), await worker.held(), await other.held()] == [True, True, False]
        proxied_store.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'posthaste worker lock' AND datname = current_database()"
        )
        await eventually(other.held, bool, 10)
        with pytest.raises(Unavailable):
            await worker.held()
        assert not await worker.held()
        await other.release()
        assert await worker.held()
    finally:
        worker.close()
        other.close()


async def test_an_unreachable_worker_keeps_its_session_for_a_lease(proxied_store: ProxiedStore) -> None:
    """A frozen one keeps it, too: its kernel answers the keepalives, and nothing ends an idle session."""
    worker = WorkerSession(with_port(proxied_store.database, proxied_store.proxy.port), lease_seconds=60)
    try:
        assert await worker.held()
        rows = await worker._pool.fetch(_SETTINGS, 5)
        assert {str(row["name"]): int(row["setting"]) for row in rows} == {
            "idle_session_timeout": 0,
            "tcp_keepalives_count": 10,
            "tcp_keepalives_idle": 10,
            "tcp_keepalives_interval": 5,
            "tcp_user_timeout": 65_000,
        }
    finally:
        worker.close()


async def test_workers_have_different_ids(database: str) -> None:
    workers = [WorkerSession(database, lease_seconds=60) for _ in range(2)]
    try:
        assert [await worker.held() for worker in workers] == [True, True]
        assert len({worker.worker_id for worker in workers}) == 2
    finally:
        for worker in workers:
            worker.close()
