"""Shares: a limit of concurrent calls for each key, where one call counts for several keys."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass


class ShareTimeout(Exception):
    """The shares of a call were not free in time."""


@dataclass(eq=False, slots=True)
class _Waiter:
    limits: Mapping[Hashable, int]
    granted: "asyncio.Future[None]"


class Shares:
    """A call acquires a share of all its keys at once. While it waits for one share, it holds no other."""

    def __init__(self) -> None:
        self._in_use: Counter[Hashable] = Counter()
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def take(self, limits: Mapping[Hashable, int], *, seconds: float) -> AsyncIterator[None]:
        """Hold a share of each key. `limits`: the calls at once by key. The first waiting call that fits is granted.

        Raises:
            ShareTimeout: the shares were not free within `seconds`.
        """
        waiter = _Waiter(limits, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._grant()
        try:
            async with asyncio.timeout(seconds):
                await waiter.granted
        except TimeoutError as error:
            self._withdraw(waiter)
            raise ShareTimeout from error
        except BaseException:
            self._withdraw(waiter)
            raise
        try:
            yield
        finally:
            self._return(waiter)

    def _grant(self) -> None:
        for waiter in list(self._waiting):
            if all(self._in_use[key] < limit for key, limit in waiter.limits.items()):
                self._waiting.remove(waiter)
                self._in_use.update(waiter.limits.keys())
                waiter.granted.set_result(None)

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        else:  # granted just before
            self._return(waiter)

    def _return(self, waiter: _Waiter) -> None:
        for key in waiter.limits:
            self._in_use[key] -= 1
            if not self._in_use[key]:
                del self._in_use[key]
        self._grant()
