"""Leadership: a session advisory lock on its own connection, so it ends with its process."""

import zlib

import sqlalchemy as sa

from infra.postgres.pool import DatabasePool

_CALL_SECONDS = 2.0
# Postgres ends the session of a frozen or unreachable leader after this time without a heartbeat.
IDLE_SECONDS = 10

# An advisory lock counts acquisitions: acquire it only if this session does not hold it.
_HOLD = sa.text("""
SELECT CASE WHEN EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
        AND classid = CAST(:role AS int) AND objid = CAST(0 AS oid) AND database = (
            SELECT oid FROM pg_database WHERE datname = current_database())
) THEN true ELSE pg_try_advisory_lock(CAST(:role AS int), 0) END
""")


class Leadership:
    """At most one process of a database holds `role`; each call of `held` is a heartbeat."""

    def __init__(self, url: str, role: str):
        self._pool = DatabasePool(url, name=role, threads=1, idle_session_seconds=IDLE_SECONDS)
        self._role = zlib.crc32(role.encode()) & 0x7FFF_FFFF

    async def held(self) -> bool:
        """Whether this process holds the role. A free role is acquired. `Unavailable`: it is lost with the connection."""
        return bool(await self._pool.value(_HOLD, _CALL_SECONDS, role=self._role))

    async def release(self) -> None:
        """Release the role at once."""
        await self._pool.value(sa.text("SELECT pg_advisory_unlock_all()"), _CALL_SECONDS)

    def close(self) -> None:
        self._pool.close()
