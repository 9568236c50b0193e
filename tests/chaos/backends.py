"""Ledger and cache of a simulation, on Postgres and Redis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg2
from redis import Redis

from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.sweep import Sweep
from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from jobs.model import Kind
from jobs.wire import Pointer

SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class JobState:
    """A job in the ledger; `leased`: its lease has not expired, and its worker lives."""

    version: int
    status: Status
    token: UUID | None
    leased: bool


class Connections:
    """Connections to Postgres and Redis, shared by many interleavings in turn."""

    def __init__(self, database: str, redis: str, namespace: str):
        self.pool = DatabasePool(database, name="simulation", threads=4)
        self.redis_url, self.namespace = redis, namespace
        self.redis = Redis.from_url(redis)
        self._sql = psycopg2.connect(database)
        self._sql.autocommit = True

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self._sql.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def cached(self) -> dict[UUID, int]:
        """The cached version of each job."""
        keys = list(self.redis.scan_iter(match=f"{self.namespace}:job:*", count=1000))
        values = self.redis.mget(keys) if keys else []
        return {UUID(key.decode()[-36:]): int(value.split()[0]) for key, value in zip(keys, values, strict=True) if value}

    def clear_cache(self) -> None:
        keys = list(self.redis.scan_iter(match=f"{self.namespace}:job:*", count=1000))
        if keys:
            self.redis.delete(*keys)

    def close(self) -> None:
        self.clear_cache()
        self.redis.close()
        self._sql.close()
        self.pool.close()


class Backend:
    """The ledger on Postgres and the cache on Redis. The clock advances by setting back the ledger's instants."""

    def __init__(self, servers: Connections):
        self._servers = servers
        self._rows = servers.rows
        self.ledger = Ledger(servers.pool, grace_seconds=0)
        self.outbox = Outbox(servers.pool)
        self.sweep = Sweep(servers.pool)
        self.cache = StatusCache(servers.redis_url, namespace=servers.namespace, ttl_seconds=3600)
        self._store = DeadLetterStore(servers.pool)
        self._rows("DELETE FROM outbox; DELETE FROM jobs; DELETE FROM idempotency_keys")
        self._rows("SELECT pg_advisory_unlock_all()")
        self._locks: set[int] = set()
        servers.clear_cache()

    def jobs(self) -> dict[UUID, JobState]:
        found = self._rows(
            "SELECT CAST(id AS text), version, status, CAST(claim_token AS text), lease_until IS NOT NULL "
            "AND lease_until > now(), worker_id FROM jobs"
        )
        return {
            UUID(id_): JobState(version, Status(status), UUID(token) if token else None, leased and worker_id in self._locks)
            for id_, version, status, token, leased, worker_id in found
        }

    def outbox_rows(self) -> set[Pointer]:
        return {Pointer(UUID(id_), version) for id_, version in self._rows("SELECT CAST(job_id AS text), version FROM outbox")}

    def callbacks(self) -> set[tuple[UUID, int]]:
        found = self._rows("SELECT CAST(parent_id AS text), parent_version FROM jobs WHERE kind = 'callback'")
        return {(UUID(parent), version) for parent, version in found}

    async def dead_letters(self) -> list[DeadLetter]:
        return await self._store.page(Filter(kind=Kind.MESSAGE), BEFORE_ALL, 100, SECONDS)

    async def requeue(self, letters: Sequence[DeadLetter]) -> set[UUID]:
        return await self._store.requeue([(letter, letter.queue) for letter in letters], SECONDS)

    async def cached(self) -> dict[UUID, int]:
        return self._servers.cached()

    async def clear_cache(self) -> None:
        self._servers.clear_cache()

    def advance_clock(self, seconds: float) -> None:
        for statement in (
            "UPDATE jobs SET lease_until = lease_until - {ago}, due_at = due_at - {ago}",
            "UPDATE outbox SET due_at = due_at - {ago}",
        ):
            self._rows(statement.format(ago=f"interval '{seconds} seconds'"))

    def lock(self, worker_id: int) -> None:
        self._locks.add(worker_id)
        self._rows(f"SELECT pg_advisory_lock(0, {worker_id})")

    def unlock(self, worker_id: int) -> None:
        self._locks.discard(worker_id)
        self._rows(f"SELECT pg_advisory_unlock(0, {worker_id})")

    async def close(self) -> None:
        await self.cache.close()
