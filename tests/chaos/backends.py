"""Ledger and cache of a simulation: fakes in memory, or real Postgres and Redis."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import psycopg2
from redis import Redis

from infra.postgres.dead_letters import BEFORE_ALL, DeadLetter, DeadLetterStore, Filter
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Due, Outbox
from infra.postgres.pool import DatabasePool
from infra.postgres.sweep import Observation, Page, Sweep
from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from jobs.model import Kind, Route, WorkQueue
from jobs.wire import Pointer
from tests.support.fakes import FakeCache, FakeLedger

SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class JobState:
    """A job in the ledger; `leased`: its lease has not expired, and its worker lives."""

    version: int
    status: Status
    token: UUID | None
    leased: bool


class Backend(Protocol):
    """The ledger and the cache that all simulated processes share."""

    ledger: Any
    outbox: Any
    sweep: Any
    cache: Any

    def jobs(self) -> dict[UUID, JobState]: ...
    def outbox_rows(self) -> set[Pointer]: ...
    def callbacks(self) -> set[tuple[UUID, int]]: ...
    async def dead_letters(self) -> list[Any]: ...
    async def requeue(self, letters: Sequence[Any]) -> set[UUID]: ...
    async def cached(self) -> dict[UUID, int]: ...
    async def clear_cache(self) -> None: ...
    def advance_clock(self, seconds: float) -> None: ...
    def lock(self, worker_id: int) -> None: ...
    def unlock(self, worker_id: int) -> None: ...
    async def close(self) -> None: ...


@dataclass
class FakeOutbox:
    """The outbox of a `FakeLedger`; every row is due until a relay takes it."""

    ledger: FakeLedger
    taken: set[Pointer] = field(default_factory=set)

    async def delete(self, published: Sequence[Pointer], timeout: float = 1) -> list[None]:
        for pointer in published:
            self.ledger.outbox.pop(pointer, None)
        return [None] * len(published)

    async def release(self, unpublished: Sequence[Pointer], timeout: float = 1) -> None:
        self.taken.difference_update(unpublished)

    async def queues_due(self, timeout: float = 1) -> list[str]:
        return sorted({queue for pointer, queue in self.ledger.outbox.items() if pointer not in self.taken})

    async def take(self, queue: str, limit: int, timeout: float = 1) -> list[Due]:
        due = [p for p, its in self.ledger.outbox.items() if its == queue and p not in self.taken][:limit]
        self.taken.update(due)
        return [Due(pointer, Route.DEAD if queue.endswith(".dead") else Route.WORK, queue, None) for pointer in due]


@dataclass
class FakeSweep:
    """The sweep over a `FakeLedger`."""

    ledger: FakeLedger

    async def observe(self, queue: WorkQueue, *, behind_seconds: float, timeout: float = 1) -> Observation:
        return Observation(datetime.now(UTC), is_behind=False, claimed_until=None)

    async def requeue(self, queue: WorkQueue, *, before: datetime, after: datetime | None, timeout: float = 1) -> Page:
        waiting = [
            Pointer(id_, job.version)
            for id_, job in self.ledger.jobs.items()
            if job.queue == queue and self.ledger.statuses[id_] in (Status.QUEUED, Status.RETRYING)
        ]
        missing = [pointer for pointer in waiting if pointer not in self.ledger.outbox]
        self.ledger.outbox.update(dict.fromkeys(missing, queue.name))
        return Page(len(missing), None)


class FakeBackend:
    """Fakes in memory."""

    def __init__(self) -> None:
        self.ledger = FakeLedger()
        self.outbox = FakeOutbox(self.ledger)
        self.sweep = FakeSweep(self.ledger)
        self.cache = FakeCache()

    def jobs(self) -> dict[UUID, JobState]:
        ledger = self.ledger
        return {
            id_: JobState(
                job.version,
                ledger.statuses[id_],
                job.token,
                ledger.leases.get(id_, 0.0) > ledger.clock and ledger.workers[id_] in ledger.locks,
            )
            for id_, job in ledger.jobs.items()
        }

    def outbox_rows(self) -> set[Pointer]:
        return set(self.ledger.outbox)

    def callbacks(self) -> set[tuple[UUID, int]]:
        return self.ledger.callbacks

    async def dead_letters(self) -> list[Pointer]:
        dead = (Status.FAILED, Status.UNKNOWN)
        return [Pointer(id_, job.version) for id_, job in self.ledger.jobs.items() if self.ledger.statuses[id_] in dead]

    async def requeue(self, letters: Sequence[Pointer]) -> set[UUID]:
        return self.ledger.requeue(letters)

    async def cached(self) -> dict[UUID, int]:
        return {id_: known.version for id_, known in self.cache.values.items()}

    async def clear_cache(self) -> None:
        self.cache.values.clear()

    def advance_clock(self, seconds: float) -> None:
        self.ledger.clock += seconds
        self.outbox.taken.clear()

    def lock(self, worker_id: int) -> None:
        self.ledger.locks.add(worker_id)

    def unlock(self, worker_id: int) -> None:
        self.ledger.locks.discard(worker_id)

    async def close(self) -> None:
        return None


class RealConnections:
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


class RealBackend:
    """The ledger on Postgres and the cache on Redis. The clock advances by setting back the ledger's instants."""

    def __init__(self, servers: RealConnections):
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
