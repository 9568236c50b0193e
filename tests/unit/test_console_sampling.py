"""Samples are shared by all viewers of an interval; a failure is not."""

import asyncio

import pytest

from api.console.sampling import Sample
from infra.errors import Transient


class Reads:
    """Counts its reads; each waits for `released` and returns its number, or fails."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self.released = asyncio.Event()
        self.released.set()

    async def take(self) -> int:
        self.count += 1
        await self.released.wait()
        if self.fails:
            raise Transient("down")
        return self.count


async def test_viewers_at_the_same_time_share_one_read() -> None:
    reads = Reads()
    reads.released.clear()
    sample = Sample(reads.take)
    viewers = [asyncio.create_task(sample.read()) for _ in range(10)]
    await asyncio.sleep(0)
    reads.released.set()
    assert await asyncio.gather(*viewers) == [1] * 10


async def test_a_sample_is_shared_within_its_interval_and_repeated_after_it() -> None:
    reads = Reads()
    kept, fresh = Sample(reads.take, seconds=1000), Sample(reads.take, seconds=-1)
    assert [await kept.read() for _ in range(3)] == [1, 1, 1]
    assert [await fresh.read() for _ in range(3)] == [2, 3, 4]


async def test_a_failed_sample_is_repeated_at_once() -> None:
    reads = Reads()
    sample = Sample(reads.take, seconds=1000)
    reads.fails = True
    for _ in range(2):
        with pytest.raises(Transient):
            await sample.read()
    reads.fails = False
    assert await sample.read() == 3


async def test_a_viewer_that_leaves_cancels_nobody_else() -> None:
    reads = Reads()
    reads.released.clear()
    sample = Sample(reads.take)
    first, second = asyncio.create_task(sample.read()), asyncio.create_task(sample.read())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    reads.released.set()
    assert await second == 1
