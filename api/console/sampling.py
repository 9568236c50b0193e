"""Samples of Postgres for pages that many viewers may open: one read an interval for all of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 2.0


@dataclass(eq=False)
class Sample(Generic[T]):
    """The latest result of `take`, at most `seconds` old. Viewers that come meanwhile wait for the same read."""

    take: Callable[[], Awaitable[T]]
    seconds: float = SECONDS
    _latest: "asyncio.Future[T] | None" = field(default=None, init=False)
    _at: float = field(default=float("-inf"), init=False)

    async def read(self) -> T:
        """The sample. Raises as `take`; a failed one is repeated by the next viewer."""
        latest = self._latest
        if latest is None or (latest.done() and (_failed(latest) or time.monotonic() - self._at > self.seconds)):
            latest = self._latest = asyncio.ensure_future(self._taken())
        return await asyncio.shield(latest)

    async def _taken(self) -> T:
        try:
            return await self.take()
        finally:
            self._at = time.monotonic()


def _failed(future: "asyncio.Future[T]") -> bool:
    return future.cancelled() or future.exception() is not None
