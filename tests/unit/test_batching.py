"""The rules of batching. Each test fails without its rule."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from infra.errors import Transient
from service.batching import Batcher, DeadlineExceeded, Overloaded, WrongResults


class Bad(Exception):
    pass


class Passing(Transient):
    pass


class Flushes:
    """A flush that records its batches and returns ten times the item; it may fail or wait."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.fail: Callable[[Sequence[int]], Exception | None] = lambda _: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()

    async def __call__(self, items: Sequence[int], timeout: float) -> list[int]:
        self.batches.append(list(items))
        self.started.set()
        await self.gate.wait()
        if error := self.fail(items):
            raise error
        return [item * 10 for item in items]


async def test_each_caller_gets_the_own_result() -> None:
    batcher = Batcher(Flushes())
    assert await asyncio.gather(*(batcher.submit(n) for n in range(5))) == [0, 10, 20, 30, 40]


async def test_arrivals_during_a_flush_are_the_next_batch() -> None:
    flushes = Flushes()
    flushes.gate.clear()
    batcher = Batcher(flushes)
    first = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [asyncio.create_task(batcher.submit(n)) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    flushes.gate.set()
    await asyncio.gather(first, *rest)
    assert flushes.batches == [[1], [2, 3, 4]]


async def test_a_second_flush_starts_beside_the_first_once_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.batching.FURTHER_AT", 3)
    flushes = Flushes()
    flushes.gate.clear()
    batcher = Batcher(flushes, flushes=2)
    tasks = [asyncio.create_task(batcher.submit(1))]
    await flushes.started.wait()
    for n in (2, 3):
        tasks.append(asyncio.create_task(batcher.submit(n)))
    await asyncio.sleep(0.01)
    assert flushes.batches == [[1]]  # two wait
    tasks += [asyncio.create_task(batcher.submit(n)) for n in range(4, 11)]
    await asyncio.sleep(0.01)
    assert len(flushes.batches) == 2  # a third flush does not start
    flushes.gate.set()
    assert await asyncio.gather(*tasks) == [n * 10 for n in range(1, 11)]
    await batcher.drained()
    assert sorted(n for batch in flushes.batches for n in batch) == list(range(1, 11))


async def test_the_deadlines_of_two_flushes_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.batching.FURTHER_AT", 1)
    flushes = Flushes()
    flushes.gate.clear()
    batcher = Batcher(flushes, flushes=2)
    first = asyncio.create_task(batcher.submit(1, 0.05))
    await flushes.started.wait()
    second = asyncio.create_task(batcher.submit(2, 0.02))
    assert [type(each) for each in await asyncio.gather(first, second, return_exceptions=True)] == [DeadlineExceeded] * 2
    flushes.gate.set()
    await batcher.drained()


async def test_a_batch_has_a_limit() -> None:
    flushes = Flushes()
    batcher = Batcher(flushes, max_batch=2)
    await asyncio.gather(*(batcher.submit(n) for n in range(5)))
    assert [len(batch) for batch in flushes.batches] == [2, 2, 1]


async def test_waiting_is_bounded() -> None:
    flushes = Flushes()
    flushes.gate.clear()
    batcher = Batcher(flushes, capacity=2, max_batch=1)
    tasks = [asyncio.create_task(batcher.submit(n)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        for n in range(2):
            tasks.append(asyncio.create_task(batcher.submit(n)))
            await asyncio.sleep(0)
            await batcher.submit(9, 0.01)
    flushes.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_twins_are_flushed_once_and_the_losers_get_the_twin_result() -> None:
    flushes = Flushes()
    batcher: Batcher[int, int] = Batcher(flushes, key=lambda n: n, duplicate=lambda _: -1)
    assert await asyncio.gather(*(batcher.submit(n) for n in (7, 7, 8, 7))) == [70, -1, 80, -1]
    assert flushes.batches == [[7, 8]]


async def test_duplicates_share_the_result_without_a_result_of_their_own() -> None:
    batcher: Batcher[int, int] = Batcher(Flushes(), key=lambda n: n)
    assert await asyncio.gather(*(batcher.submit(7) for _ in range(2))) == [70, 70]


async def test_a_twin_takes_over_when_the_first_caller_gave_up() -> None:
    flushes = Flushes()
    flushes.gate.clear()
    batcher: Batcher[int, int] = Batcher(flushes, key=lambda n: n, duplicate=lambda _: -1)
    first, twin = asyncio.create_task(batcher.submit(7)), asyncio.create_task(batcher.submit(7))
    await flushes.started.wait()
    first.cancel()
    await asyncio.sleep(0)
    flushes.gate.set()
    assert await twin == 70


async def test_one_bad_item_fails_alone() -> None:
    flushes = Flushes()
    flushes.fail = lambda items: Bad() if 2 in items else None
    batcher = Batcher(flushes, isolate=(Bad,))
    answers = await asyncio.gather(*(batcher.submit(n) for n in (1, 2, 3)), return_exceptions=True)
    assert [answers[0], type(answers[1]), answers[2]] == [10, Bad, 30]


async def test_a_passing_error_repeats_the_same_batch() -> None:
    flushes = Flushes()
    errors = [Passing(), Passing()]
    flushes.fail = lambda _: errors.pop() if errors else None
    batcher = Batcher(flushes, repeat_transient=True)
    assert await asyncio.gather(*(batcher.submit(n) for n in (1, 2))) == [10, 20]
    assert flushes.batches == [[1, 2]] * 3


async def test_repeating_ends_at_the_deadline_and_names_the_last_error() -> None:
    flushes = Flushes()
    flushes.fail = lambda _: Passing("no route")
    batcher = Batcher(flushes, repeat_transient=True)
    with pytest.raises(DeadlineExceeded) as caught:
        await batcher.submit(1, 0.05)
    assert isinstance(caught.value.__cause__, Passing)
    await batcher.drained()
    assert len(flushes.batches) < 10


async def test_items_past_their_deadline_are_not_flushed() -> None:
    flushes = Flushes()
    flushes.gate.clear()
    batcher = Batcher(flushes, max_batch=1)
    first = asyncio.create_task(batcher.submit(1))
    await flushes.started.wait()
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(2, 0.01)
    flushes.gate.set()
    assert await first == 10
    await batcher.drained()
    assert flushes.batches == [[1]]


async def test_any_other_error_reaches_every_caller() -> None:
    flushes = Flushes()
    flushes.fail = lambda _: ZeroDivisionError()
    batcher = Batcher(flushes, isolate=(Bad,), repeat_transient=True)
    answers = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ZeroDivisionError, ZeroDivisionError]
    assert len(flushes.batches) == 1


async def test_an_error_that_both_repeats_and_isolates_is_repeated() -> None:
    flushes = Flushes()
    errors = iter([Passing()])
    flushes.fail = lambda _: next(errors, None)
    batcher = Batcher(flushes, repeat_transient=True, isolate=(Exception,))
    assert await asyncio.gather(*(batcher.submit(n) for n in (1, 2, 3))) == [10, 20, 30]
    assert flushes.batches == [[1, 2, 3], [1, 2, 3]]


async def test_an_unforeseen_error_costs_the_item_that_causes_it_alone() -> None:
    flushes = Flushes()
    flushes.fail = lambda items: ZeroDivisionError() if 2 in items else None
    batcher = Batcher(flushes, repeat_transient=True, isolate=(Exception,))
    answers = await asyncio.gather(*(batcher.submit(n) for n in (1, 2, 3)), return_exceptions=True)
    assert [answer if isinstance(answer, int) else type(answer) for answer in answers] == [10, ZeroDivisionError, 30]


async def test_a_flush_that_returns_too_few_results_is_an_error_of_each_caller() -> None:
    async def flush(items: Sequence[int], timeout: float) -> list[int]:
        return []

    batcher: Batcher[int, int] = Batcher(flush)
    answers = await asyncio.gather(*(batcher.submit(n, 5) for n in (1, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [WrongResults, WrongResults]
