"""The one batching primitive. Callers await their own results; items that arrive during a flush form the next batch."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from infra.errors import Transient
from infra.monitoring import metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

FURTHER_AT = 100  # waiting items; a second flush of fewer costs more than it gains
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
    callers: "list[tuple[asyncio.Future[Result], float]]"  # with their deadlines: the first caller, then the duplicates
    last_error: Exception | None = None

    def deadline(self, now: float) -> float | None:
        """The latest deadline of the callers that still wait; None: nobody waits."""
        return max((deadline for future, deadline in self.callers if deadline > now and not future.done()), default=None)

    def expire(self, now: float) -> float:
        """Fail the callers whose deadline has passed. Returns the next deadline, or infinity."""
        following = float("inf")
        for future, deadline in self.callers:
            if not future.done():
                if deadline <= now:
                    error = DeadlineExceeded("no result in time")
                    error.__cause__ = self.last_error
                    future.set_exception(error)
                else:
                    following = min(following, deadline)
        return following

    def settle(self, result: Result, duplicate_result: Result) -> None:
        """Return the result to the first caller that still waits, and `duplicate_result` to the others."""
        for future, _ in self.callers:
            if not future.done():
                future.set_result(result)
                result = duplicate_result

    def fail(self, error: Exception) -> None:
        for future, _ in self.callers:
            if not future.done():
                future.set_exception(error)


@dataclass(eq=False)
class Batcher(Generic[Item, Result]):
    """Collects single items into batches for `flush(items, timeout_seconds)`, which returns one result an item, in order.

    A flush executes a whole batch or nothing of it. It must be repeatable with the same items. No timer delays a flush: an idle
    batcher adds no delay, and a busy one fills its batches. One timer watches all deadlines. At most `flushes` run at once; one
    beside another starts when `FURTHER_AT` items wait, because small batches cost more.
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
    observe: Callable[[int], object] = int  # called with the size of each batch
    flushes: int = 1
    _waiting: deque[_Entry[Item, Result]] = field(default_factory=deque, init=False)
    _flushing: "dict[asyncio.Task[None], list[_Entry[Item, Result]]]" = field(default_factory=dict, init=False)
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)

    async def submit(self, item: Item, timeout: float = float("inf")) -> Result:
        """The item's own result, within `timeout` seconds. Raises `Overloaded`, `DeadlineExceeded` or the flush's error."""
        return await self._enqueue(item, timeout)

    def post(self, item: Item, timeout: float, callback: Callable[["asyncio.Future[Result]"], object]) -> None:
        """Submit without waiting; raises `Overloaded`. `callback` gets the future."""
        self._enqueue(item, timeout).add_done_callback(callback)

    def _enqueue(self, item: Item, timeout: float) -> "asyncio.Future[Result]":
        if len(self._waiting) >= self.capacity:
            raise Overloaded(f"{len(self._waiting)} items are waiting")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        deadline = loop.time() + timeout
        self._waiting.append(_Entry(item, [(future, deadline)]))
        if not self._flushing or (len(self._flushing) < self.flushes and len(self._waiting) >= FURTHER_AT):
            task = loop.create_task(self._drain(), context=Context())  # a batch belongs to no caller's trace
            self._flushing[task] = []
        self._watch(loop, deadline)
        return future

    def _watch(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Set the timer to this deadline, unless it fires earlier."""
        if deadline < (float("inf") if self._timer is None else self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        now = loop.time()
        entries = chain(self._waiting, *self._flushing.values())
        self._watch(loop, min((entry.expire(now) for entry in entries), default=float("inf")))

    async def drained(self) -> None:
        """Wait until no item is waiting and no flush runs."""
        while self._flushing:
            await asyncio.wait(list(self._flushing))

    async def _drain(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._waiting:
                batch = self._flushing[task] = self._take()
                self.observe(len(batch))
                await self._execute(batch)
        finally:
            del self._flushing[task]

    def _take(self) -> list[_Entry[Item, Result]]:
        batch: list[_Entry[Item, Result]] = []
        now = asyncio.get_running_loop().time()
        by_key: dict[Hashable, _Entry[Item, Result]] = {}
        while self._waiting and len(batch) < self.max_batch:
            entry = self._waiting.popleft()
            if entry.deadline(now) is None:
                entry.expire(now)  # here, as the timer no longer sees it
                continue
            original = entry if self.key is None else by_key.setdefault(self.key(entry.item), entry)
            if original is entry:
                batch.append(entry)
            else:
                original.callers += entry.callers
        return batch

    async def _execute(self, batch: list[_Entry[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        pause, repeated = _FIRST_PAUSE, (Transient,) if self.repeat_transient else ()
        while True:
            now = loop.time()
            deadlines = {entry: deadline for entry in batch if (deadline := entry.deadline(now)) is not None}
            for entry in batch:
                entry.expire(now)  # here, as the timer may be late, and no longer sees the batch afterwards
            if not (batch := list(deadlines)):
                return
            timeout = min(self.call_seconds, max(deadlines.values()) - now)
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
    name: str | None = None,
    flushes: int = 1,
) -> Batcher[Item, Result]:
    """A batcher that retries transient errors until the deadline, and isolates the item of any other error.

    `name`: of the sizes of its batches in the metrics.
    """
    observe = metrics.BATCH_SIZE[name,].observe if name else int
    return Batcher(
        flush, key=key, duplicate=duplicate, repeat_transient=True, isolate=(Exception,), observe=observe, flushes=flushes
    )
