"""The one batching primitive. Callers await their own results; items that arrive during a flush form the next batch."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, TypeVar

from infra.errors import Transient

Item = TypeVar("Item")
Result = TypeVar("Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds between repeats of one batch, jittered


class Overloaded(Transient):
    """Too many items are waiting; the item was not executed."""


class WrongResults(Exception):
    """A flush did not return one result for each item: a bug."""


class DeadlineExceeded(Transient):
    """The item's deadline passed without a result. The item may have been executed."""


@dataclass(eq=False, slots=True)
class _Entry(Generic[Item, Result]):
    item: Item
    deadline: float
    futures: "list[asyncio.Future[Result]]"  # the first caller's, then the duplicates'
    last_error: Exception | None = None

    def is_live(self, now: float) -> bool:
        return now < self.deadline and any(not future.done() for future in self.futures)

    def settle(self, result: Result, duplicate_result: Result) -> None:
        """Return the result to the first caller that still waits, and `duplicate_result` to the others."""
        waiting = [future for future in self.futures if not future.done()]
        for index, future in enumerate(waiting):
            future.set_result(duplicate_result if index else result)

    def fail(self, error: Exception) -> None:
        for future in self.futures:
            if not future.done():
                future.set_exception(error)


@dataclass(eq=False)
class Batcher(Generic[Item, Result]):
    """Collects single items into batches for `flush(items, timeout_seconds)`, which returns one result an item, in order.

    A flush executes a whole batch or nothing of it. It must be repeatable with the same items. One flush runs at a time.
    There is no timer: an idle batcher adds no delay, and a busy one fills its batches.
    """

    flush: Callable[[Sequence[Item], float], Awaitable[Sequence[Result]]]
    _: KW_ONLY
    key: Callable[[Item], Hashable] | None = None  # equal keys are flushed once; the later items are duplicates
    duplicate: Callable[[Item], Result] | None = None  # the result of a duplicate after a success; None: the first's result
    isolate: tuple[type[Exception], ...] = ()  # errors of one bad item that fail its batch, which is repeated item by item
    repeat_transient: bool = False  # repeat a batch that fails with a `Transient` error until its items' deadlines pass
    max_batch: int = 500
    capacity: int = 20_000  # waiting items before `Overloaded`
    call_seconds: float = 2.0  # the longest duration of one flush
    _waiting: deque[_Entry[Item, Result]] = field(default_factory=deque, init=False)
    _drainer: "asyncio.Task[None] | None" = field(default=None, init=False)

    async def submit(self, item: Item, timeout: float = float("inf")) -> Result:
        """The item's own result, within `timeout` seconds. Raises `Overloaded`, `DeadlineExceeded` or the flush's error."""
        entry = self._enqueue(item, timeout)
        try:
            async with asyncio.timeout(None if timeout == float("inf") else timeout):
                return await entry.futures[0]
        except TimeoutError as error:
            raise DeadlineExceeded(f"no result within {timeout:.3g} s") from (entry.last_error or error)

    def post(self, item: Item, timeout: float, callback: Callable[["asyncio.Future[Result]"], object]) -> None:
        """Submit without waiting; raises `Overloaded`. `callback` gets the future, unless the deadline precedes the flush."""
        self._enqueue(item, timeout).futures[0].add_done_callback(callback)

    def _enqueue(self, item: Item, timeout: float) -> _Entry[Item, Result]:
        if len(self._waiting) >= self.capacity:
            raise Overloaded(f"{len(self._waiting)} items are waiting")
        loop = asyncio.get_running_loop()
        entry: _Entry[Item, Result] = _Entry(item, loop.time() + timeout, [loop.create_future()])
        self._waiting.append(entry)
        if self._drainer is None:
            self._drainer = loop.create_task(self._drain())
        return entry

    async def drained(self) -> None:
        """Wait until no item is waiting and no flush runs."""
        while self._drainer is not None:
            await asyncio.shield(self._drainer)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                if batch := self._take():
                    await self._execute(batch)
        finally:
            self._drainer = None

    def _take(self) -> list[_Entry[Item, Result]]:
        now = asyncio.get_running_loop().time()
        batch: list[_Entry[Item, Result]] = []
        by_key: dict[Hashable, _Entry[Item, Result]] = {}
        while self._waiting and len(batch) < self.max_batch:
            entry = self._waiting.popleft()
            if not entry.is_live(now):
                continue
            original = entry if self.key is None else by_key.setdefault(self.key(entry.item), entry)
            if original is entry:
                batch.append(entry)
            else:
                original.futures += entry.futures
                original.deadline = max(original.deadline, entry.deadline)
        return batch

    async def _execute(self, batch: list[_Entry[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        pause, repeated = _FIRST_PAUSE, (Transient,) if self.repeat_transient else ()
        while batch := [entry for entry in batch if entry.is_live(loop.time())]:
            timeout = min(self.call_seconds, max(entry.deadline for entry in batch) - loop.time())
            try:
                results = await self.flush([entry.item for entry in batch], timeout)
                if len(results) != len(batch):
                    raise WrongResults(f"{len(results)} results of {len(batch)} items")
            except repeated as error:
                for entry in batch:
                    entry.last_error = error
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, not a secret
                pause = min(_LONGEST_PAUSE, pause * 2)
            except Exception as error:  # noqa: BLE001  raised again in every caller
                if isinstance(error, self.isolate) and len(batch) > 1:
                    for entry in batch:
                        await self._execute([entry])
                else:
                    for entry in batch:
                        entry.fail(error)
                return
            else:
                for entry, result in zip(batch, results, strict=True):
                    entry.settle(result, result if self.duplicate is None else self.duplicate(entry.item))
                return


def ledger_batcher(
    flush: Callable[[Sequence[Item], float], Awaitable[Sequence[Result]]],
    *,
    key: Callable[[Item], Hashable] | None = None,
    duplicate: Callable[[Item], Result] | None = None,
) -> Batcher[Item, Result]:
    """A batcher that retries transient errors until the deadline, and isolates the item of any other error."""
    return Batcher(flush, key=key, duplicate=duplicate, repeat_transient=True, isolate=(Exception,))
