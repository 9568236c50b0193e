"""Wait for a condition with a deadline, instead of a sleep."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL = 0.02
PATIENCE = 60.0  # a failure may take a minute; a late condition on a busy machine is no failure


async def eventually(
    read: Callable[[], Awaitable[T]], condition: Callable[[T], bool], seconds: float = PATIENCE, poll: float = POLL
) -> T:
    """Read a value repeatedly until the condition holds; fail after a minute, or after `seconds` if that is longer."""
    deadline = time.monotonic() + max(seconds, PATIENCE)
    while True:
        value = await read()
        if condition(value):
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {max(seconds, PATIENCE):g} s still: {value!r}")
        await asyncio.sleep(poll)


async def until(read: Callable[[], T], condition: Callable[[T], bool], seconds: float = PATIENCE) -> T:
    """Like `eventually`, for a value in memory."""

    async def value() -> T:
        return read()

    return await eventually(value, condition, seconds)
