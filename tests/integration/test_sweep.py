"""The sweep finds exactly the waiting jobs without a message."""

from datetime import timedelta

import pytest

from consumers import sweeper as sweeper_module
from consumers.sweeper import Sweeper
from infra.postgres import sweep
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.postgres.sweep import Sweep
from jobs.model import message_queue
from jobs.wire import Pointer
from tests.support.factories import claim_request, message
from tests.support.ledger import Store

QUEUE = message_queue("sandbox")


class Broker:
    """A broker whose queues have this number of ready messages."""

    def __init__(self, ready: int):
        self.ready = ready

    async def ready_messages(self, queue: str) -> int:
        return self.ready


async def _accept(store: Store, due_seconds_ago: int, *, lost: bool = True) -> Pointer:
    """Accept a job that became due some time ago; its message is lost, or still in the outbox."""
    new = message()
    await Ledger(store.pool, grace_seconds=0).accept([new], 5)
    for table, column in (("jobs", "id"), ("outbox", "job_id")):
        store.rows(f"UPDATE {table} SET due_at = now() - interval '{due_seconds_ago} s' WHERE {column} = '{new.id}'")
    if lost:
        await Outbox(store.pool).delete([Pointer(new.id, 1)], 5)
    return Pointer(new.id, 1)


def _outbox(store: Store) -> set[str]:
    return {str(row[0]) for row in store.rows("SELECT job_id FROM outbox")}


async def _sweep(store: Store, older: float = 30.0) -> int:
    """Run one whole pass over jobs that are overdue by this time."""
    sweep, requeued, after = Sweep(store.pool), 0, None
    before = (await sweep.observe(QUEUE, behind_seconds=5, timeout=5)).now - timedelta(seconds=older)
    while True:
        page = await sweep.requeue(QUEUE, before=before, after=after, timeout=5)
        requeued += page.requeued
        if page.last is None:
            return requeued
        after = page.last


def _sweeper(store: Store, broker: Broker) -> Sweeper:
    return Sweeper(Sweep(store.pool), broker.ready_messages, [QUEUE], lambda: True, after_seconds=30)


async def _claim(store: Store, pointer: Pointer) -> None:
    assert await store.ledger.claim([claim_request(pointer.id)], 5) != [None]


def _time_passes(store: Store, sweeper: Sweeper, seconds: float) -> None:
    """Advance the clock of the ledger and of the sweeper's state."""
    ago = f"interval '{seconds} s'"
    store.rows(f"UPDATE jobs SET due_at = due_at - {ago}")
    store.rows(f"UPDATE outbox SET due_at = due_at - {ago}")
    for known in (sweeper._behind_until, sweeper._claimed_until):
        known.update({queue: instant - timedelta(seconds=seconds) for queue, instant in known.items()})


async def test_only_jobs_that_wait_for_long_without_a_row_get_one(store: Store) -> None:
    lost = await _accept(store, 40)
    intact = await _accept(store, 40, lost=False)
    await _accept(store, 10)
    await _claim(store, await _accept(store, 40))
    assert await _sweep(store) == 1
    assert _outbox(store) == {str(lost.id), str(intact.id)}
    assert await _sweep(store) == 0


async def test_jobs_that_are_still_in_the_outbox_do_not_hide_a_lost_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    for _ in range(3):
        await _accept(store, 90, lost=False)
    lost = await _accept(store, 40)
    assert await _sweep(store) == 1
    assert str(lost.id) in _outbox(store)


async def test_an_empty_queue_is_swept_after_a_while_and_a_full_one_is_not(store: Store) -> None:
    await _accept(store, 100)
    sweeper = _sweeper(store, Broker(0))
    assert [await sweeper.sweep_once(now) for now in (0.0, 10.0, 29.9)] == [0, 0, 0]
    assert await sweeper.sweep_once(30.0) == 1
    full = _sweeper(store, Broker(5))
    await _accept(store, 100)
    assert [await full.sweep_once(now) for now in (0.0, 31.0, 62.0, 93.0)] == [0, 0, 0, 0]


async def test_a_queue_that_was_not_empty_in_between_is_not_swept_yet(store: Store) -> None:
    await _accept(store, 100)
    broker = Broker(0)
    sweeper = _sweeper(store, broker)
    assert await sweeper.sweep_once(0.0) == 0
    broker.ready = 1
    assert await sweeper.sweep_once(20.0) == 0
    broker.ready = 0
    assert [await sweeper.sweep_once(now) for now in (40.0, 69.9)] == [0, 0]
    assert await sweeper.sweep_once(70.0) == 1


async def test_a_job_that_was_overtaken_by_a_minute_is_published_again(store: Store) -> None:
    sweeper = _sweeper(store, Broker(5))
    assert await sweeper.sweep_once(0.0) == 0
    _time_passes(store, sweeper, 300)
    overtaken, close = await _accept(store, 200), await _accept(store, 100)
    await _claim(store, await _accept(store, 90))
    assert await sweeper.sweep_once(5.0) == 1
    assert _outbox(store) == {str(overtaken.id)} and str(close.id) not in _outbox(store)


async def test_nothing_is_lost_while_the_relay_is_behind_nor_before_its_messages_are_claimed(
    store: Store,
) -> None:
    sweeper = _sweeper(store, Broker(5))
    await sweeper.sweep_once(0.0)
    _time_passes(store, sweeper, 600)
    behind = await _accept(store, 500, lost=False)
    published_late = await _accept(store, 400)
    await _claim(store, await _accept(store, 90))
    assert await sweeper.sweep_once(5.0) == 0, "the relay is behind"
    await Outbox(store.pool).delete([behind], 5)
    assert await sweeper.sweep_once(10.0) == 0, "what was claimed became due while the relay was behind"
    _time_passes(store, sweeper, 300)
    await _claim(store, await _accept(store, 100))
    assert await sweeper.sweep_once(15.0) == 2
    assert _outbox(store) == {str(behind.id), str(published_late.id)}


async def test_an_empty_queue_is_not_swept_while_the_relay_is_behind(store: Store) -> None:
    await _accept(store, 100)
    waiting = await _accept(store, 100, lost=False)
    sweeper = _sweeper(store, Broker(0))
    assert [await sweeper.sweep_once(now) for now in (0.0, 31.0, 62.0)] == [0, 0, 0]
    await Outbox(store.pool).delete([waiting], 5)
    assert [await sweeper.sweep_once(now) for now in (70.0, 99.0, 100.0)] == [0, 0, 2]


async def test_a_sweep_scans_a_bounded_number_of_rows_and_continues_where_it_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    monkeypatch.setattr(sweeper_module, "PAGES", 2)
    for n in range(7):
        await _accept(store, 100 - n)
    sweeper = _sweeper(store, Broker(0))
    assert await sweeper.sweep_once(0.0) == 0
    assert await sweeper.sweep_once(30.0) <= 4
    assert await sweeper.sweep_once(31.0) > 0, "the pass goes on, though its rows are in the outbox by now"
    await sweeper.sweep_once(32.0)
    assert len(_outbox(store)) == 7


async def test_jobs_of_one_instant_that_fill_a_page_do_not_hold_the_sweep_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    for _ in range(5):
        await _accept(store, 100, lost=False)
    store.rows("UPDATE jobs SET due_at = date_trunc('second', now()) - interval '100 s'")
    lost = await _accept(store, 40)
    store.rows("UPDATE outbox SET due_at = now()")
    sweeper = _sweeper(store, Broker(0))
    assert [await sweeper.sweep_once(now) for now in (0.0, 30.0)] == [0, 1]
    assert str(lost.id) in _outbox(store)
