"""Pieces of the statements: rows as JSON, statuses, and the callback that each statement inserts when it ends a job."""

from typing import Any

import orjson

from jobs.lifecycle import ENDS, Status
from jobs.model import CALLBACKS


def to_json(value: Any) -> str:
    """Dictionaries, dataclasses and lists of them as JSON, for `json_to_recordset`."""
    return orjson.dumps(value).decode()


def in_list(statuses: frozenset[Status]) -> str:
    """Statuses as the list of an SQL IN."""
    return ", ".join(f"'{status}'" for status in sorted(statuses))


def queue_name(kind: str, provider: str, priority: str) -> str:
    """The logical name of a job's queue, as `WorkQueue.name`."""
    return f"{kind} || 's' || coalesce('.' || {provider} || '.' || {priority}, '')"


# A UUIDv7 (RFC 9562) of Postgres' clock.
NEW_ID = """CAST(lpad(to_hex(CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)), 12, '0') || '7'
        || substr(CAST(gen_random_uuid() AS text), 16) AS uuid)"""


def rfc3339(column: str) -> str:
    """An instant as RFC 3339 text, UTC with milliseconds."""
    return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24\\:MI\\:SS.MS"Z"')"""


# The event of a callback. It contains neither destination nor body.
_EVENT = f"""CAST(json_build_object(
        'type', kind || '.' || status, 'timestamp', {rfc3339("updated_at")},
        'data', json_build_object(
            'id', id, 'status', status, 'sequence', version, 'reason', reason, 'attempts', attempts,
            'reference', reference, 'tags', tags, 'metadata', metadata,
            'created_at', {rfc3339("created_at")}, 'finished_at', {rfc3339("finished_at")})) AS text)"""

# The columns of a changed job that `callbacks_of` needs.
CALLBACK_COLUMNS = """j.id, j.version, j.status, j.kind, j.client_id, j.reason, j.attempts, j.reference, j.tags, j.metadata,
        j.created_at, j.updated_at, j.finished_at, j.callback_url, j.traceparent"""


def callbacks_of(moved: str) -> str:
    """The CTEs that insert a callback for each ended row of the CTE `moved` with a callback URL.

    `moved` has `CALLBACK_COLUMNS` and `grace`, the head start over the relay in seconds. A callback has no callback itself.
    """
    return f"""callbacks AS (
    INSERT INTO jobs (id, client_id, kind, destination, body, parent_id, parent_version, traceparent)
    SELECT {NEW_ID}, client_id, 'callback', callback_url, {_EVENT}, id, version, traceparent FROM {moved}
    WHERE callback_url IS NOT NULL AND kind <> 'callback' AND status IN ({in_list(ENDS)})
    RETURNING id, parent_id
), callbacks_queued AS (
    INSERT INTO outbox (job_id, version, route, queue, due_at, traceparent)
    SELECT c.id, 1, 'work', '{CALLBACKS.name}', clock_timestamp() + grace * interval '1 second', {moved}.traceparent
    FROM callbacks c JOIN {moved} ON {moved}.id = c.parent_id
)"""  # noqa: S608  the interpolated parts are constants
