"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL = 0.02
PATIENCE = 60.0  # a condition that fails is worth a minute; one that comes late on a busy machine is no failure


async def eventually(look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], seconds: float = PATIENCE) -> T:
    """Look again and again until what is seen is `wanted`; fails after a minute, or `seconds` if that is more."""
    deadline = time.monotonic() + max(seconds, PATIENCE)
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"after {max(seconds, PATIENCE):g} s still: {seen!r}")
        await asyncio.sleep(POLL)
