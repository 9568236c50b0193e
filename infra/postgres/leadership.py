"""Session advisory locks, each on its own connection, so that a lock ends with its process."""

import secrets
import zlib

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool

_CALL_SECONDS = 2.0
# Postgres ends the session of a frozen or unreachable leader after this time without a heartbeat.
IDLE_SECONDS = 10

_OURS = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"

# An advisory lock counts acquisitions: acquire it only if this session does not hold it.
_HOLD = sa.text(f"""
SELECT CASE WHEN EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
        AND classid = CAST(:high AS int) AND objid = CAST(:low AS int) AND objsubid = 2 AND {_OURS}
) THEN true ELSE pg_try_advisory_lock(CAST(:high AS int), CAST(:low AS int)) END
""")  # noqa: S608  constants

# The ids of living workers, an SQL array.
HELD_WORKERS = f"""ARRAY(
    SELECT (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND mode = 'ExclusiveLock' AND granted AND {_OURS})"""  # noqa: S608


def is_free(worker_id: str) -> str:
    """The condition that no session holds the lock of a worker. It stays free until the end of the transaction."""
    return f"pg_try_advisory_xact_lock_shared(CAST({worker_id} >> 32 AS int), CAST({worker_id} & 2147483647 AS int))"


def role_is_held(role: str) -> str:
    """The condition that a process holds `role`; see `Leadership`."""
    return f"""EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
        AND CAST(classid AS bigint) = {_half(role)} AND objid = 0 AND {_OURS})"""


def _half(role: str) -> int:
    """The first half of a role's key; the second is 0."""
    return zlib.crc32(role.encode()) & 0x7FFF_FFFF


class SessionLock:
    """At most one session of a database holds the lock `key`; each call of `held` is a heartbeat.

    The halves of `key` are Postgres' two integers, with 31 bits each.
    """

    def __init__(self, pool: DatabasePool, key: int, *, call_seconds: float = _CALL_SECONDS):
        self._pool, self._call_seconds = pool, call_seconds
        self._key = {"high": key >> 32, "low": key & 0x7FFF_FFFF}

    async def held(self) -> bool:
        """Whether this process holds the lock. A free lock is acquired. `Unavailable`: it is lost with the connection."""
        return bool(await self._pool.value(_HOLD, self._call_seconds, **self._key))

    async def release(self) -> None:
        """Release the lock at once."""
        await self._pool.value(sa.text("SELECT pg_advisory_unlock_all()"), _CALL_SECONDS)

    def close(self) -> None:
        self._pool.close()


class Leadership(SessionLock):
    """At most one process of a database holds `role`."""

    def __init__(self, url: str, role: str):
        pool = DatabasePool(url, name=role, threads=1, idle_session_seconds=IDLE_SECONDS)
        super().__init__(pool, _half(role) << 32)


class WorkerSession(SessionLock):
    """The lock of one worker process, under a fresh `worker_id`: it shows other processes that the worker lives.

    A frozen or unreachable worker keeps its lock for at least `lease_seconds`. It may be sending, so only its lease ends that.
    """

    def __init__(self, url: str, lease_seconds: float):
        self.worker_id = secrets.randbits(31) << 32 | secrets.randbits(31)
        # A late answer must not cost the lock: the deadline is the server's own.
        pool = DatabasePool(url, name="worker lock", threads=1, lost_client_seconds=lease_seconds)
        super().__init__(pool, self.worker_id, call_seconds=10.0)
