"""Conditions of the installation: their begin and their end, each with a callback to the operator in the same transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from infra.postgres.leadership import role_is_held
from infra.postgres.pool import DatabasePool
from infra.postgres.transitions.sql import NEW_ID, rfc3339, to_json
from jobs.model import CALLBACKS

OPERATOR = "(operator)"  # the client of operator events; the parentheses keep it from the names of real clients
RELAY = "relay"  # the condition that no relay is active

_RELAY_IS_ACTIVE = role_is_held("relay")
_IS_ACTIVE = sa.text(f"SELECT {_RELAY_IS_ACTIVE}")
_ACTIVE = sa.text("SELECT name, subject FROM operator_conditions")

# Of two processes that see the same change, one inserts or deletes the row, and only that one inserts a callback. The state of
# the relay is read again: the process that saw it may have been slow.
_CHANGE = sa.text(f"""
WITH r AS (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r(name text, subject text, begins boolean, type text, data jsonb)
    WHERE name <> '{RELAY}' OR begins <> {_RELAY_IS_ACTIVE}
), begun AS (
    INSERT INTO operator_conditions (name, subject) SELECT name, subject FROM r WHERE begins ON CONFLICT DO NOTHING
    RETURNING name, subject, began_at
), ended AS (
    DELETE FROM operator_conditions c USING r WHERE NOT r.begins AND c.name = r.name AND c.subject = r.subject
    RETURNING c.name, c.subject, c.began_at
), events AS (
    SELECT r.type, r.data || jsonb_build_object(
        'namespace', (SELECT namespace FROM installation), 'began_at', {rfc3339("began_at")}) AS data
    FROM (SELECT * FROM begun UNION ALL SELECT * FROM ended) changed JOIN r USING (name, subject)
), callbacks AS (
    INSERT INTO jobs (id, client_id, kind, destination, body)
    SELECT {NEW_ID}, '{OPERATOR}', 'callback', :url, CAST(json_build_object(
        'type', type, 'timestamp', {rfc3339("clock_timestamp()")}, 'data', data) AS text) FROM events
    RETURNING id
), queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at)
    SELECT id, 1, 'work', '{CALLBACKS.name}', clock_timestamp() FROM callbacks
)
SELECT id FROM callbacks
""")  # noqa: S608  the interpolated parts are constants

# An answered call of one worker closes the breaker for all: without messages, the breaker of another worker stays half-open.
# Workers report up to two seconds late, so the instants decide: only an opening after the last answered call counts. Each
# report computes this again, so no order of reports loses an opening.
_REPORT_BREAKERS = sa.text("""
WITH closed AS (
    UPDATE open_breakers b SET closed_at = greatest(b.closed_at, clock_timestamp() - c.seconds * interval '1 second')
    FROM (SELECT key AS provider, CAST(value AS float8) AS seconds FROM json_each_text(CAST(:closed AS json))) c
    WHERE b.provider = c.provider
)
INSERT INTO open_breakers (provider, worker_id, closed_at)
SELECT failing.key, :worker, (
    SELECT max(b.closed_at) FROM open_breakers b WHERE b.provider = failing.key
        AND b.closed_at >= clock_timestamp() - CAST(failing.value AS float8) * interval '1 second')
FROM json_each_text(CAST(:failing AS json)) failing
ON CONFLICT (provider, worker_id) DO UPDATE SET seen_at = clock_timestamp(), closed_at = excluded.closed_at
""")

_OPEN_BREAKERS = sa.text("""
WITH old AS (DELETE FROM open_breakers WHERE seen_at < now() - interval '1 hour')
SELECT DISTINCT provider FROM open_breakers WHERE closed_at IS NULL AND seen_at >= now() - :fresh * interval '1 second'
""")


@dataclass(frozen=True, slots=True)
class Change:
    """The begin of a condition, or its end, with the type and the data of its event."""

    name: str
    subject: str
    begins: bool
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BreakerReport:
    """The breakers of one worker: those that fail, and those that an answered call has closed since the last report.

    Each value is the number of seconds since the provider's last opening, or since that call.
    """

    failing: Mapping[str, float] = field(default_factory=dict)
    closed: Mapping[str, float] = field(default_factory=dict)


class ConditionStore:
    """Each method is one transaction; see `DatabasePool.call` for what it raises."""

    def __init__(self, pool: DatabasePool):
        self._pool = pool

    async def active(self, timeout: float) -> set[tuple[str, str]]:
        """The conditions that have begun and not ended: name and subject."""
        return {(row["name"], row["subject"]) for row in await self._pool.fetch(_ACTIVE, timeout)}

    async def change(self, changes: Sequence[Change], url: str, timeout: float) -> list[UUID]:
        """Record changes, with a callback to `url` for each one that is new; returns the ids of the callbacks."""
        rows = await self._pool.fetch(_CHANGE, timeout, rows=to_json(list(changes)), url=url)
        return [row["id"] for row in rows]

    async def relay_is_active(self, timeout: float) -> bool:
        """Whether a relay holds its lock."""
        return bool(await self._pool.value(_IS_ACTIVE, timeout))

    async def report_breakers(self, worker_id: int, report: BreakerReport, timeout: float) -> None:
        """Store the report of one worker."""
        parameters = {"failing": to_json(report.failing), "closed": to_json(report.closed)}
        await self._pool.execute(_REPORT_BREAKERS, timeout, worker=worker_id, **parameters)

    async def open_breakers(self, fresh_seconds: float, timeout: float) -> set[str]:
        """The providers whose breaker is open in a worker that reported it lately."""
        return {row["provider"] for row in await self._pool.fetch(_OPEN_BREAKERS, timeout, fresh=fresh_seconds)}
