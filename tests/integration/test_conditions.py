"""Conditions in the ledger: whoever sees a change, one callback is made for its begin and one for its end."""

import asyncio
import json
from typing import Any

import pytest

from infra.postgres.conditions import OPERATOR, BreakerReport, Change, ConditionStore
from infra.postgres.leadership import Leadership
from service.operator_events import RELAY_LOST
from tests.support.ledger import Store

URL = "https://operator.example/events"
BEGIN = Change("dead_letters", "message", True, "dead_letters.high", {"kind": "message", "count": 7, "threshold": 5})
END = Change("dead_letters", "message", False, "dead_letters.normal", {"kind": "message"})
RELAY_BACK = Change("relay", "", False, "relay.back", {})


@pytest.fixture
def conditions(store: Store) -> ConditionStore:
    return ConditionStore(store.pool)


def _events(store: Store) -> list[dict[str, Any]]:
    rows = store.rows(f"SELECT body FROM jobs WHERE kind = 'callback' AND client_id = '{OPERATOR}' ORDER BY id")
    return [json.loads(str(body)) for (body,) in rows]


async def test_many_processes_that_see_a_change_make_one_callback(store: Store, conditions: ConditionStore) -> None:
    for change in (BEGIN, END):
        made = await asyncio.gather(*(conditions.change([change], URL, 10) for _ in range(8)))
        assert sorted(map(len, made)) == [0] * 7 + [1]
    begin, end = _events(store)
    assert (begin["type"], end["type"]) == ("dead_letters.high", "dead_letters.normal")
    began_at = begin["data"].pop("began_at")
    assert end["data"].pop("began_at") == began_at <= begin["timestamp"] <= end["timestamp"]
    (namespace,) = store.rows("SELECT namespace FROM installation")[0]
    assert begin["data"] == {"kind": "message", "count": 7, "threshold": 5, "namespace": namespace}
    assert end["data"] == {"kind": "message", "namespace": namespace}
    assert store.rows("SELECT DISTINCT destination, status, version FROM jobs") == [(URL, "queued", 1)]
    due = "SELECT count(*) FROM outbox o JOIN jobs j ON j.id = o.job_id AND o.queue = 'callbacks' AND o.due_at <= now()"
    assert store.rows(due) == [(2,)]
    assert await conditions.active(5) == set()


async def test_a_condition_that_begins_again_is_reported_again(store: Store, conditions: ConditionStore) -> None:
    for change in (BEGIN, BEGIN, END, END, BEGIN):
        await conditions.change([change], URL, 5)
    assert [event["type"] for event in _events(store)] == ["dead_letters.high", "dead_letters.normal", "dead_letters.high"]
    assert await conditions.active(5) == {("dead_letters", "message")}


async def test_only_the_lock_decides_whether_the_relay_is_lost(store: Store, conditions: ConditionStore) -> None:
    relay = Leadership(store.database, "relay")
    try:
        assert await relay.held() and await conditions.relay_is_active(5)
        assert await conditions.change([RELAY_LOST], URL, 5) == []
        await relay.release()
        assert not await conditions.relay_is_active(5)
        assert len(await conditions.change([RELAY_LOST], URL, 5)) == 1
        assert await conditions.change([RELAY_BACK], URL, 5) == []
        assert await relay.held()
        assert len(await conditions.change([RELAY_BACK], URL, 5)) == 1
    finally:
        relay.close()
    assert [event["type"] for event in _events(store)] == ["relay.lost", "relay.back"]


async def test_a_breaker_is_open_until_a_call_is_answered_or_its_workers_died(store: Store, conditions: ConditionStore) -> None:
    await conditions.report_breakers(1, BreakerReport({"mail": 30, "sms": 30}), 5)
    await conditions.report_breakers(2, BreakerReport({"sms": 20}), 5)
    assert await conditions.open_breakers(10, 5) == {"mail", "sms"}
    await conditions.report_breakers(1, BreakerReport({"mail": 40}, closed={"sms": 10}), 5)
    for _ in range(2):
        await conditions.report_breakers(2, BreakerReport({"sms": 30}), 5)  # idle, and half-open
    await conditions.report_breakers(
        3, BreakerReport({"sms": 20}), 5
    )  # the first report of an opening before the answered call
    assert await conditions.open_breakers(10, 5) == {"mail"}
    store.rows("UPDATE open_breakers SET seen_at = now() - interval '11 seconds'")  # as if worker 1 had died
    assert await conditions.open_breakers(10, 5) == set()
    store.rows("UPDATE open_breakers SET seen_at = now() - interval '2 hours'")
    await conditions.open_breakers(10, 5)
    assert store.rows("SELECT * FROM open_breakers") == []


@pytest.mark.parametrize("worker", [1, 2, 3])
async def test_a_breaker_that_opens_soon_after_an_answered_call_is_open(conditions: ConditionStore, worker: int) -> None:
    for failing in (1, 2):
        await conditions.report_breakers(failing, BreakerReport({"sms": 60}), 5)
    await conditions.report_breakers(1, BreakerReport(closed={"sms": 3}), 5)
    assert await conditions.open_breakers(10, 5) == set()
    await conditions.report_breakers(worker, BreakerReport({"sms": 1}), 5)
    assert await conditions.open_breakers(10, 5) == {"sms"}


async def test_a_late_report_of_an_answered_call_hides_no_later_opening(conditions: ConditionStore) -> None:
    await conditions.report_breakers(1, BreakerReport({"sms": 60}), 5)
    await conditions.report_breakers(2, BreakerReport({"sms": 1}), 5)
    await conditions.report_breakers(1, BreakerReport(closed={"sms": 30}), 5)
    await conditions.report_breakers(2, BreakerReport({"sms": 3}), 5)  # its next report
    assert await conditions.open_breakers(10, 5) == {"sms"}
