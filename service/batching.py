"""The one batching primitive: callers await their own result while a flush runs; what arrives meanwhile is the next batch.

There is no timer: an idle batcher adds no wait, a loaded one batches by itself. One flush is under way at a time.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from infra.errors import Transient

Item = TypeVar("Item")
Result = TypeVar("Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds between repeats of one batch, jittered


class Overloaded(Transient):
    """More callers are waiting for a batch than it may hold; nothing was done."""


class WrongResults(Exception):
    """A flush has not returned one result for each item: a defect of ours."""


class DeadlineExceeded(Transient):
    """The item's deadline passed before its batch was known to be done; it may have been done all the same."""


@dataclass(eq=False, slots=True)
class _Entry(Generic[Item, Result]):
    item: Item
    deadline: float
    futures: "list[asyncio.Future[Result]]"  # the caller's own, then its twins'
    last_error: Exception | None = None

    def alive(self, now: float) -> bool:
        return now < self.deadline and any(not future.done() for future in self.futures)

    def join(self, twin: "_Entry[Item, Result]") -> None:
        self.futures += twin.futures
        self.deadline = max(self.deadline, twin.deadline)

    def settle(self, result: Result, twin_result: Result) -> None:
        """Give the result to the first caller who still waits, and the others what a twin is told."""
        waiting = [future for future in self.futures if not future.done()]
        for index, future in enumerate(waiting):
            future.set_result(twin_result if index else result)

    def fail(self, error: Exception) -> None:
        for future in self.futures:
            if not future.done():
                future.set_exception(error)


class Batcher(Generic[Item, Result]):
    """Collects single items into batches for `flush(items, timeout_seconds)`, which returns one result an item, in order.

    Args:
        flush: does a whole batch, in one transaction or not at all; it must be repeatable with the same items.
        key: items with equal keys are flushed once; the others are twins.
        twin: what a twin is told once the first succeeded; None: the same result as the first.
        repeat_transient: a batch that fails with a `Transient` error is done again until its items' deadlines pass.
        isolate: other errors, that one bad item causes for all: the batch is done again item by item, so that it fails alone.
        max_batch: items in one flush; capacity: items that may wait before `Overloaded`.
        call_seconds: the longest that one flush may take.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item], float], Awaitable[Sequence[Result]]],
        *,
        key: Callable[[Item], Hashable] | None = None,
        twin: Callable[[Item], Result] | None = None,
        isolate: tuple[type[Exception], ...] = (),
        repeat_transient: bool = False,
        max_batch: int = 500,
        capacity: int = 20_000,
        call_seconds: float = 2.0,
    ):
        self._flush = flush
        self._key = key
        self._twin = twin
        self._isolate = isolate
        self._repeat = (Transient,) if repeat_transient else ()
        self._max_batch = max_batch
        self._capacity = capacity
        self._call_seconds = call_seconds
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._drainer: asyncio.Task[None] | None = None

    async def submit(self, item: Item, timeout: float = float("inf")) -> Result:
        """Wait at most `timeout` seconds for the item's own result.

        Raises:
            Overloaded: too many are waiting.
            DeadlineExceeded: no result in time; the item may have been done.
            Exception: whatever the flush raised for this item.
        """
        entry = self._enqueue(item, timeout)
        try:
            async with asyncio.timeout(None if timeout == float("inf") else timeout):
                return await entry.futures[0]
        except TimeoutError as error:
            raise DeadlineExceeded(f"no result within {timeout:.3g} s") from (entry.last_error or error)

    def post(self, item: Item, timeout: float, done: Callable[["asyncio.Future[Result]"], object]) -> None:
        """Like `submit` without waiting: `done` gets the settled future, unless the deadline passes before the flush.

        Raises:
            Overloaded: too many are waiting.
        """
        self._enqueue(item, timeout).futures[0].add_done_callback(done)

    def _enqueue(self, item: Item, timeout: float) -> _Entry[Item, Result]:
        if len(self._waiting) >= self._capacity:
            raise Overloaded(f"{len(self._waiting)} items are waiting")
        loop = asyncio.get_running_loop()
        entry: _Entry[Item, Result] = _Entry(item, loop.time() + timeout, [loop.create_future()])
        self._waiting.append(entry)
        if self._drainer is None:
            self._drainer = loop.create_task(self._drain())
        return entry

    async def drained(self) -> None:
        """Wait until nothing is waiting or under way."""
        while self._drainer is not None:
            await asyncio.shield(self._drainer)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                if batch := self._take():
                    await self._do(batch)
        finally:
            self._drainer = None

    def _take(self) -> list[_Entry[Item, Result]]:
        now = asyncio.get_running_loop().time()
        batch: list[_Entry[Item, Result]] = []
        first: dict[Hashable, _Entry[Item, Result]] = {}
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if not entry.alive(now):
                continue
            if self._key is not None:
                other = first.setdefault(self._key(entry.item), entry)
                if other is not entry:
                    other.join(entry)
                    continue
            batch.append(entry)
        return batch

    async def _do(self, batch: list[_Entry[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while batch := [entry for entry in batch if entry.alive(loop.time())]:
            timeout = min(self._call_seconds, max(entry.deadline for entry in batch) - loop.time())
            try:
                results = await self._flush([entry.item for entry in batch], timeout)
                if len(results) != len(batch):
                    raise WrongResults(f"{len(results)} results of {len(batch)} items")
            except self._repeat as error:
                for entry in batch:
                    entry.last_error = error
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, not a secret
                pause = min(_LONGEST_PAUSE, pause * 2)
            except self._isolate as error:
                await self._one_by_one(batch, error)
                return
            except Exception as error:  # noqa: BLE001  not swallowed: raised again in every caller
                for entry in batch:
                    entry.fail(error)
                return
            else:
                for entry, result in zip(batch, results, strict=True):
                    entry.settle(result, result if self._twin is None else self._twin(entry.item))
                return

    async def _one_by_one(self, batch: list[_Entry[Item, Result]], error: Exception) -> None:
        if len(batch) == 1:
            batch[0].fail(error)
            return
        for entry in batch:
            await self._do([entry])


def ledger_batcher(
    flush: Callable[[Sequence[Item], float], Awaitable[Sequence[Result]]],
    *,
    key: Callable[[Item], Hashable] | None = None,
    twin: Callable[[Item], Result] | None = None,
) -> Batcher[Item, Result]:
    """A batcher that drops nothing: transient errors are retried until the deadline, any other error is one item's own."""
    return Batcher(flush, key=key, twin=twin, repeat_transient=True, isolate=(Exception,))
