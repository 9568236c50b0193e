"""The console's reads of newest jobs: within their bounds, by client, and by index on a ledger with history."""

import pytest
import sqlalchemy as sa

from infra.postgres import newest as room
from infra.postgres.job_reads import BEHIND_ALL
from infra.postgres.newest import NewestReads
from jobs.lifecycle import Status
from jobs.model import Kind
from tests.support.factories import new_id
from tests.support.ledger import Store

_ADD = """
INSERT INTO jobs (id, client_id, kind, provider, destination, body, status, version, parent_id, parent_version)
VALUES ('{id}', '{client}', '{kind}', {provider}, 'https://receiver.example', 'x', '{status}', 3, {parent}, {parent_version})
"""
_ATTEMPT = "job_id, revision, n, claim_token, outcome, charged, ran_seconds, ended_at"
_HISTORY = """
INSERT INTO jobs (id, client_id, kind, provider, destination, body, status, version)
SELECT gen_random_uuid(), 'client-' || n % 7, CASE WHEN n % 1000 = 0 THEN 'report' ELSE 'message' END,
    CASE WHEN n % 1000 = 0 THEN NULL ELSE 'sandbox' END, '+1', 'hello', 'sent', 3
FROM generate_series(1, 50000) n
"""


def _add(store: Store, kind: Kind, client: str = "shop", status: str = "sent", parent: str | None = None) -> str:
    id_ = str(new_id())
    named = "'sandbox'" if kind is Kind.MESSAGE else "NULL"
    owner, version = (f"'{parent}'", "1") if parent else ("NULL", "NULL")
    fields = {"id": id_, "client": client, "kind": kind, "provider": named, "status": status}
    store.rows(_ADD.format(**fields, parent=owner, parent_version=version))
    return id_


async def test_reports_of_one_client_and_of_all_newest_first(store: Store) -> None:
    _add(store, Kind.MESSAGE)
    ids = [_add(store, Kind.REPORT, client) for client in ("shop", "bank", "shop", "zoo")]
    reads = NewestReads(store.pool)
    assert [str(row.id) for row in await reads.reports(None, BEHIND_ALL, 10, 5)] == ids[::-1]
    assert [row.client_id for row in await reads.reports(None, BEHIND_ALL, 2, 5)] == ["zoo", "shop"]
    shop = await reads.reports("shop", BEHIND_ALL, 10, 5)
    assert [str(row.id) for row in shop] == [ids[2], ids[0]]
    assert [str(row.id) for row in await reads.reports("shop", shop[0].id, 10, 5)] == [ids[0]]
    assert await reads.reports("nobody", BEHIND_ALL, 10, 5) == []


async def test_callbacks_that_are_recent_waiting_or_dead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RECENT_JOBS", 10)
    parents = [_add(store, Kind.MESSAGE, "bank") for _ in range(4)]
    old_sent = _add(store, Kind.CALLBACK, "bank", "sent", parents[0])
    old_dead = _add(store, Kind.CALLBACK, "bank", "failed", parents[1])
    old_waiting = _add(store, Kind.CALLBACK, "bank", "retrying", parents[2])
    for _ in range(10):
        _add(store, Kind.MESSAGE)
    parent = _add(store, Kind.MESSAGE, "shop")
    recent = _add(store, Kind.CALLBACK, "shop", "sent", parent)
    reads = NewestReads(store.pool)
    rows = await reads.callbacks(None, 5)
    assert [str(row.id) for row in rows] == [recent, old_waiting, old_dead]
    assert old_sent not in {str(row.id) for row in rows}
    assert [(row.parent_kind, row.status) for row in rows[:2]] == [(Kind.MESSAGE, Status.SENT), (Kind.MESSAGE, Status.RETRYING)]
    assert [str(row.id) for row in await reads.callbacks("shop", 5)] == [recent]


async def test_a_flood_of_another_client_hides_no_callback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RECENT_JOBS", 4)
    monkeypatch.setattr(room, "MOST_WAITING", 2)
    message, report = _add(store, Kind.MESSAGE), _add(store, Kind.REPORT)
    sent = [_add(store, Kind.CALLBACK, "shop", "sent", parent) for parent in (message, report)]
    waiting = _add(store, Kind.CALLBACK, "shop", "retrying", str(new_id()))
    dead = _add(store, Kind.CALLBACK, "shop", "failed", str(new_id()))
    store.rows(f"UPDATE jobs SET due_at = now() + interval '1 hour', reason = 'z' WHERE id IN ('{waiting}', '{dead}')")
    for status in ("queued", "failed", "sent"):
        for _ in range(5):
            _add(store, Kind.CALLBACK, "bank", status, str(new_id()))
    rows = await NewestReads(store.pool).callbacks("shop", 5)
    assert [str(row.id) for row in rows] == [dead, waiting, *sent[::-1]]
    assert [row.parent_kind for row in rows] == [None, None, Kind.REPORT, Kind.MESSAGE]


async def test_calls_of_the_newest_jobs_by_provider(store: Store) -> None:
    id_ = _add(store, Kind.MESSAGE)
    for n, (outcome, seconds) in enumerate([("retryable", 0.5), ("accepted", 0.1), ("accepted", 0.3)], 1):
        values = f"'{id_}', 0, {n}, gen_random_uuid(), '{outcome}', true, {seconds}, now() - interval '{n} s'"
        store.rows(f"INSERT INTO attempts ({_ATTEMPT}) VALUES ({values})")
    calls = (await NewestReads(store.pool).calls(5))["sandbox"]
    assert (calls.calls, calls.failures, calls.p50_seconds) == (3, 1, 0.3)
    assert 0.4 < calls.p99_seconds <= 0.5 and 2.9 < calls.seconds < 10
    assert 0.3 < calls.per_second < 1.1


def _plan(store: Store, statement: sa.TextClause, **parameters: object) -> str:
    with store.pool.engine.connect() as connection:
        rows = connection.execute(sa.text(f"EXPLAIN (COSTS OFF) {statement.text}"), parameters)
        return "\n".join(row[0] for row in rows)


async def test_each_read_goes_by_its_indexes(store: Store) -> None:
    store.rows(_HISTORY)
    store.rows("ANALYZE")
    reports = _plan(store, room._REPORTS, client_id=None, before=str(BEHIND_ALL), limit=25)
    callbacks = _plan(store, room._CALLBACKS, recent=5000, most=500)
    of_client = _plan(store, room._CALLBACKS_OF_CLIENT, client_id="client-3", recent=5000, most=500, searched=20_000)
    calls = _plan(store, room._CALLS, recent=5000)
    assert "jobs_reports" in reports
    assert all(index in callbacks for index in ("jobs_pkey", "jobs_waiting_by_kind", "jobs_dead_by_reason")), callbacks
    assert all(index in of_client for index in ("jobs_callbacks", "jobs_waiting_by_kind", "jobs_dead")), of_client
    for plan in (reports, callbacks, of_client, calls):
        assert "Seq Scan on jobs" not in plan, plan
