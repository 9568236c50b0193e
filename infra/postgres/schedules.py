"""Schedules of recurring reports: created, listed and deleted by clients; due ones become jobs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.keys import Scope
from infra.postgres.errors import TryAgain
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.sql import in_list, to_json
from jobs.lifecycle import ENDS, Status
from jobs.model import REPORTS
from jobs.reports import ReportParameters

MOST = 100  # schedules of one client
_TRIES = 5

# The client could submit the report itself. `keys_off`: no request needs a key.
_ACTIVE = f"""(CAST(:keys_off AS boolean) OR NOT EXISTS (SELECT FROM api_keys) OR EXISTS (
        SELECT FROM api_keys k WHERE k.client_id = s.client_id AND k.scopes && ARRAY['{Scope.REPORTS}', '{Scope.ADMIN}']
            AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())))"""  # noqa: S608  the interpolated parts are constants

_IS_RUNNING = f"EXISTS (SELECT FROM jobs j WHERE j.id = s.last_id AND j.status NOT IN ({in_list(ENDS)}))"

_CLOCK = sa.text("SELECT clock_timestamp()")

# The first free slot. A concurrent insert of the same name or slot is waited for, and then nothing is inserted.
_CREATE = sa.text("""
INSERT INTO report_schedules (client_id, name, slot, cron, timezone, parameters, callback_url, default_callback, next_at)
SELECT :client_id, :name, free.slot, :cron, :timezone, :parameters, :callback_url, :default_callback, :next_at
FROM generate_series(1, :most) free(slot)
WHERE NOT EXISTS (SELECT FROM report_schedules t WHERE t.client_id = :client_id AND t.slot = free.slot)
    AND NOT EXISTS (SELECT FROM report_schedules t WHERE t.client_id = :client_id AND t.name = :name)
ORDER BY free.slot LIMIT 1
ON CONFLICT DO NOTHING
""")

_SELECT = f"""
SELECT s.client_id, s.name, s.cron, s.timezone, s.parameters, s.callback_url, s.default_callback, s.created_at, s.next_at,
    s.last_at, j.id AS last_id, j.status AS last_status, {_ACTIVE} AS active
FROM report_schedules s LEFT JOIN jobs j ON j.id = s.last_id
"""  # noqa: S608  the interpolated parts are constants
_FIND = sa.text(f"{_SELECT} WHERE s.client_id = :client_id AND s.name = :name")
_OF_CLIENT = sa.text(f"{_SELECT} WHERE s.client_id = :client_id ORDER BY s.client_id, s.name LIMIT :limit")
_OF_ALL = sa.text(f"{_SELECT} ORDER BY s.client_id, s.name LIMIT :limit")

_DELETE = sa.text("DELETE FROM report_schedules WHERE client_id = :client_id AND name = :name")

_FIND_DUE = sa.text(f"""
SELECT s.client_id, s.name, s.cron, s.timezone, s.next_at AS due_at, clock_timestamp() AS now FROM report_schedules s
WHERE s.next_at <= now() AND {_ACTIVE} AND NOT {_IS_RUNNING}
ORDER BY s.next_at LIMIT :limit
""")  # noqa: S608

# The rows are the fields of `Run`. Of two relays, one finds the schedule at `due_at`.
_START = sa.text(f"""
WITH held AS (
    SELECT s.client_id, s.name, r.id, r.next_at
    FROM json_to_recordset(CAST(:rows AS json)) AS r(
        client_id text, name text, due_at timestamptz, id uuid, next_at timestamptz)
    JOIN report_schedules s ON s.client_id = r.client_id AND s.name = r.name AND s.next_at = r.due_at
    WHERE s.next_at <= now()
    ORDER BY s.client_id, s.name FOR UPDATE OF s SKIP LOCKED
), moved AS (
    UPDATE report_schedules s SET next_at = held.next_at, last_at = clock_timestamp(), last_id = held.id
    FROM held WHERE s.client_id = held.client_id AND s.name = held.name
    RETURNING s.*
), accepted AS (
    INSERT INTO jobs (id, client_id, kind, body, reference, callback_url)
    SELECT last_id, client_id, 'report', parameters, name,
        CASE WHEN default_callback THEN CAST(:callback_url AS text) ELSE callback_url END FROM moved
    RETURNING id, created_at
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at)
    SELECT id, 1, 'work', '{REPORTS.name}', created_at FROM accepted
)
SELECT last_id FROM moved
""")  # noqa: S608


class NameTaken(Exception):
    """The client has another schedule with this name."""


class TooMany(Exception):
    """The client has `MOST` schedules."""


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A validated schedule. `default_callback`: the jobs get the default callback URL instead of `callback_url`."""

    client_id: str
    name: str
    cron: str
    timezone: str
    parameters: ReportParameters
    callback_url: str | None
    default_callback: bool
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Schedule(NewSchedule):
    """A stored schedule. `active`: the client has a usable key that may start reports; else the schedule rests.

    `last_id` and `last_status` are those of the newest job; None: there is none, or retention has deleted it.
    """

    created_at: datetime
    last_at: datetime | None
    last_id: UUID | None
    last_status: Status | None
    active: bool

    def equals(self, new: NewSchedule) -> bool:
        """Whether both have the same name and the same fields that the client chose."""
        return _chosen(self) == _chosen(new)


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule whose `next_at` was `due_at`, at the instant `now` by Postgres' clock."""

    client_id: str
    name: str
    cron: str
    timezone: str
    due_at: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """Start the report `id` of the schedule that is due since `due_at`, and move it to `next_at`."""

    client_id: str
    name: str
    due_at: datetime
    id: UUID
    next_at: datetime


class ScheduleStore:
    """Each method is one transaction; see `DatabasePool.call` for what it raises.

    `keys_off`: no request needs a key, so every schedule is active.
    """

    def __init__(self, pool: DatabasePool, *, keys_off: bool):
        self._pool = pool
        self._keys_off = keys_off

    async def clock(self, timeout: float) -> datetime:
        """Postgres' clock."""
        now: datetime = await self._pool.value(_CLOCK, timeout)
        return now

    async def create(self, new: NewSchedule, timeout: float) -> tuple[Schedule, bool]:
        """Store a schedule. An equal schedule with its name is returned, with False.

        Raises:
            NameTaken, TooMany: nothing was stored.
        """
        values = {**asdict(new), "parameters": new.parameters.to_body(), "most": MOST}
        for _ in range(_TRIES):
            is_new = await self._pool.execute(_CREATE, timeout, **values) == 1
            stored = await self.find(new.client_id, new.name, timeout)
            if stored is not None:
                if not is_new and not stored.equals(new):
                    raise NameTaken
                return stored, is_new
            if len(await self.read(new.client_id, MOST, timeout)) >= MOST:
                raise TooMany
        raise TryAgain("other schedules of the client were created meanwhile")

    async def find(self, client_id: str, name: str, timeout: float) -> Schedule | None:
        """The client's schedule with this name."""
        found = await self._select(_FIND, timeout, client_id=client_id, name=name)
        return found[0] if found else None

    async def read(self, client_id: str | None, limit: int, timeout: float) -> list[Schedule]:
        """The schedules of a client, by name; None: of all clients, by client."""
        if client_id is None:
            return await self._select(_OF_ALL, timeout, limit=limit)
        return await self._select(_OF_CLIENT, timeout, client_id=client_id, limit=limit)

    async def delete(self, client_id: str, name: str, timeout: float) -> bool:
        """False: the client has no such schedule."""
        return await self._pool.execute(_DELETE, timeout, client_id=client_id, name=name) == 1

    async def due(self, limit: int, timeout: float) -> list[DueSchedule]:
        """Due and active schedules whose last report has ended; those that have been due the longest first."""
        rows = await self._pool.fetch(_FIND_DUE, timeout, keys_off=self._keys_off, limit=limit)
        return [DueSchedule(**row) for row in rows]

    async def start(self, runs: Sequence[Run], callback_url: str | None, timeout: float) -> set[UUID]:
        """Insert the jobs of these runs with their outbox rows, and move the schedules. Returns the ids of the jobs.

        A schedule that another relay has started, or that its client has deleted, starts no job. `callback_url`: the default.
        """
        rows = await self._pool.fetch(_START, timeout, rows=to_json(runs), callback_url=callback_url)
        return {row["last_id"] for row in rows}

    async def _select(self, statement: sa.TextClause, timeout: float, **where: object) -> list[Schedule]:
        rows = await self._pool.fetch(statement, timeout, keys_off=self._keys_off, **where)
        return [_schedule(**row) for row in rows]


def _chosen(schedule: NewSchedule) -> tuple[object, ...]:
    chosen = (schedule.client_id, schedule.name, schedule.cron, schedule.timezone, schedule.parameters.to_body())
    return (*chosen, schedule.callback_url, schedule.default_callback)


def _schedule(parameters: str | None, last_status: str | None, **fields: Any) -> Schedule:
    status = None if last_status is None else Status(last_status)
    return Schedule(parameters=ReportParameters.from_body(parameters), last_status=status, **fields)
