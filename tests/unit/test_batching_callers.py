"""A batch and its callers: deadlines, posted items, twins."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from service.batching import Batcher, DeadlineExceeded


async def test_a_flush_gets_the_time_that_its_latest_caller_has_left_and_no_more_than_a_call_may_take() -> None:
    timeouts: list[float] = []

    async def flush(items: Sequence[int], timeout: float) -> Sequence[int]:
        timeouts.append(timeout)
        return items

    batcher = Batcher(flush, call_seconds=30.0)
    await asyncio.gather(batcher.submit(1, 10.0), batcher.submit(2, 20.0))
    await batcher.submit(3)
    assert 10.0 < timeouts[0] <= 20.0 and timeouts[1] == 30.0


async def test_a_posted_item_is_done_without_a_waiting_caller() -> None:
    async def flush(items: Sequence[int], timeout: float) -> Sequence[int]:
        return [item * 10 for item in items]

    batcher, results = Batcher(flush), []
    for item in (1, 2):
        batcher.post(item, 10.0, lambda done: results.append(done.result()))
    await batcher.drained()
    await asyncio.sleep(0)  # callbacks of a future run in the next round of the loop
    assert results == [10, 20]


async def test_a_posted_item_past_its_deadline_is_not_flushed() -> None:
    flushed: list[int] = []

    async def flush(items: Sequence[int], timeout: float) -> Sequence[int]:
        flushed.extend(items)
        return items

    batcher = Batcher(flush)
    batcher.post(1, 0.0, lambda done: None)
    await batcher.submit(2, 10.0)
    assert flushed == [2]


async def test_expired_items_do_not_end_a_batch() -> None:
    batches: list[list[int]] = []

    async def flush(items: Sequence[int], timeout: float) -> Sequence[int]:
        batches.append(list(items))
        return items

    batcher = Batcher(flush)
    for item, timeout in ((1, 10.0), (2, 0.0), (3, 10.0)):
        batcher.post(item, timeout, lambda done: None)
    await batcher.drained()
    assert batches == [[1, 3]]


async def test_the_twin_result_is_made_from_the_item() -> None:
    async def flush(items: Sequence[str], timeout: float) -> Sequence[str]:
        return [f"{item} done" for item in items]

    batcher = Batcher(flush, key=lambda item: item, duplicate=lambda item: f"{item} stale")
    answers = await asyncio.gather(batcher.submit("a"), batcher.submit("a"))
    assert list(answers) == ["a done", "a stale"]


async def test_a_batcher_takes_its_own_defaults() -> None:
    sizes: list[int] = []

    async def flush(items: Sequence[int], timeout: float) -> Sequence[int]:
        sizes.append(len(items))
        assert timeout <= 2.0
        return items

    batcher = Batcher(flush)
    await asyncio.gather(*(batcher.submit(item) for item in range(501)))
    assert sizes == [500, 1]


async def test_a_deadline_that_passes_while_the_loop_is_blocked_fails_its_caller() -> None:
    """The batch is taken before the late timer runs. Then nobody else knows the caller."""

    async def flush(items: Sequence[int], timeout: float) -> Sequence[int]:
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251  blocks the loop, as a loaded machine does
        return items

    batcher = Batcher(flush)
    first = asyncio.create_task(batcher.submit(1))
    for _ in range(2):
        await asyncio.sleep(0)  # its flush begins
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(2, 0.01)
        assert await first == 1
