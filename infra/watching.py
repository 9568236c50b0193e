"""Waiting for jobs to change: who watches which job in this process, and how each is woken.

Whoever watches has subscribed before it reads, and reads again now and then: nothing is missed for longer than about
`reread_seconds`, heard or not.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from infra.batching import DeadlineExceeded, Overloaded
from jobs.model import KnownStatus

Read = Callable[[UUID], Awaitable[KnownStatus | None]]


class Watch:
    """One watcher of one job."""

    def __init__(self, watching: "Watching", id_: UUID, still: Callable[[], bool]):
        self._watching = watching
        self._still = still
        self._id = id_
        self._latest: KnownStatus | None = None
        self._woken = asyncio.Event()

    def heard(self, known: KnownStatus) -> None:
        if self._latest is None or known.version > self._latest.version:
            self._latest = known
            self._woken.set()

    def wake(self) -> None:
        self._woken.set()

    @property
    def goes_on(self) -> bool:
        """Whether there is anybody to be told still."""
        return not self._watching.closed and self._still()

    async def after(self, version: int, seconds: float = float("inf")) -> KnownStatus | None:
        """The job once it is further than `version`; None: it is not after so many seconds, or the watch is over."""
        deadline = time.monotonic() + seconds
        while self.goes_on:
            if self._latest is not None and self._latest.version > version:
                return self._latest
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._woken.clear()
            pause = self._watching.reread_seconds * random.uniform(0.75, 1.25)  # noqa: S311  so that rereads spread
            try:
                async with asyncio.timeout(min(left, pause)):
                    await self._woken.wait()
            except TimeoutError:
                await self._reread()
        return None

    async def _reread(self) -> None:
        try:
            known = await self._watching.read(self._id)
        except (DeadlineExceeded, Overloaded):
            return  # nobody can tell now: the next look may
        if known is not None:
            self.heard(known)


class Watching:
    """All watchers of one process; `read` asks the ledger."""

    def __init__(self, read: Read, *, reread_seconds: float):
        self.read = read
        self.reread_seconds = reread_seconds
        self.closed = False
        self._watches: defaultdict[UUID, set[Watch]] = defaultdict(set)

    def __len__(self) -> int:
        return sum(map(len, self._watches.values()))

    @contextmanager
    def watch(self, id_: UUID, still: Callable[[], bool] = lambda: True) -> Iterator[Watch]:
        """Be told of a job's changes from now on, as long as `still` says so: it is asked whenever somebody `wake`s all."""
        watch = Watch(self, id_, still)
        self._watches[id_].add(watch)
        try:
            yield watch
        finally:
            self._watches[id_].discard(watch)
            if not self._watches[id_]:
                del self._watches[id_]

    def heard(self, known: KnownStatus) -> None:
        """Somebody has told of a transition."""
        for watch in self._watches.get(known.id, ()):
            watch.heard(known)

    def close(self) -> None:
        """The process is ending: everybody is to answer with what is known."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        """Let everybody see whether they may go on."""
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()
