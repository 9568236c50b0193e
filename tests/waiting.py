"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL = 0.02


async def eventually(look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], seconds: float = 20.0) -> T:
    """Look again and again until what is seen is `wanted`; fails with what was seen last."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still: {seen!r}")
        await asyncio.sleep(POLL)
