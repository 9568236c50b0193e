"""Slots: high priority goes first, and never takes the last tenth."""

import asyncio

import pytest

from consumers.slots import Slots
from jobs.model import Priority

HIGH, NORMAL = Priority.HIGH, Priority.NORMAL


class Holder:
    """A holder of a slot that keeps it until released."""

    def __init__(self, slots: Slots, priority: Priority):
        self.holding = False
        self.release = asyncio.Event()
        self.task = asyncio.create_task(self._run(slots, priority))

    async def _run(self, slots: Slots, priority: Priority) -> None:
        async with slots.slot(priority):
            self.holding = True
            await self.release.wait()
        self.holding = False


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def _hold(slots: Slots, *priorities: Priority) -> list[Holder]:
    return [Holder(slots, priority) for priority in priorities]


async def test_no_more_than_count_at_once() -> None:
    slots = Slots(3)
    holders = _hold(slots, *[NORMAL] * 5)
    await _settle()
    assert [h.holding for h in holders] == [True, True, True, False, False]
    holders[0].release.set()
    await _settle()
    assert [h.holding for h in holders] == [False, True, True, True, False]


async def test_a_freed_slot_goes_to_high_first() -> None:
    slots = Slots(1)
    first, normal, high = _hold(slots, NORMAL, NORMAL, HIGH)
    await _settle()
    first.release.set()
    await _settle()
    assert (normal.holding, high.holding) == (False, True)


@pytest.mark.parametrize(("count", "reserved"), [(1, 0), (2, 1), (10, 1), (11, 2), (64, 7)])
async def test_one_slot_in_ten_stays_for_normal(count: int, reserved: int) -> None:
    slots = Slots(count)
    high = _hold(slots, *[HIGH] * (count + 5))
    await _settle()
    assert sum(h.holding for h in high) == count - reserved
    normal = _hold(slots, *[NORMAL] * count)
    await _settle()
    assert sum(h.holding for h in normal) == reserved


async def test_a_waiter_that_is_cancelled_costs_no_slot() -> None:
    slots = Slots(1)
    first, waiter, last = _hold(slots, NORMAL, HIGH, NORMAL)
    await _settle()
    waiter.task.cancel()
    await _settle()
    first.release.set()
    await _settle()
    assert last.holding
    last.release.set()
    await last.task
    (again,) = _hold(slots, NORMAL)
    await _settle()
    assert again.holding


async def _claims(slots: Slots, count: int) -> int:
    """The number of claims that are granted at once, of `count` requests."""
    granted = 0

    async def hold() -> None:
        nonlocal granted
        async with slots.claim(NORMAL):
            granted += 1
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hold()) for _ in range(count)]
    await _settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return granted


@pytest.mark.parametrize(("call_seconds", "ahead"), [(0.001, 10), (0.19, 5), (1.0, 1), (30.0, 0)])
async def test_jobs_are_claimed_ahead_as_many_as_the_slots_finish_soon(
    monkeypatch: pytest.MonkeyPatch, call_seconds: float, ahead: int
) -> None:
    now = [0.0]
    monkeypatch.setattr("consumers.slots.time.monotonic", lambda: now[0])
    slots = Slots(10, claims_ahead=True)
    assert await _claims(slots, 30) <= 11  # the pace of the calls is unknown
    for _ in range(300):
        async with slots.slot(NORMAL):
            now[0] += call_seconds
    assert await _claims(slots, 30) == 10 + ahead
    slots.limit(1)
    assert await _claims(slots, 30) == 1
    slots.limit(10)
    assert await _claims(slots, 30) == 10 + ahead
