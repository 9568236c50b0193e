"""Load: clients that ask one after the other, and a probe that asks at a steady rate; what they saw, in quantiles."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Ask = Callable[[], Awaitable[int]]  # one request; its HTTP status


@dataclass
class Seen:
    """Statuses, and seconds of those answered well."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    took: float = 0.0

    async def time(self, ask: Ask) -> None:
        started = time.monotonic()
        status = await ask()
        self.statuses[status] += 1
        if status < 400:
            self.seconds.append(time.monotonic() - started)

    def quantile(self, percent: int) -> float:
        """In milliseconds, of those answered well."""
        return 1000 * statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.took

    def __str__(self) -> str:
        refused = sum(count for status, count in self.statuses.items() if status >= 400)
        times = f"p50 {self.quantile(50):.1f} ms, p99 {self.quantile(99):.1f} ms"
        return f"{len(self.seconds)} answered ({self.per_second:.0f}/s), {refused} refused, {times}"


async def clients(count: int, seconds: float, ask: Ask) -> Seen:
    """`count` clients, each asking again as soon as it is answered, for `seconds`."""
    seen, started = Seen(), time.monotonic()

    async def client() -> None:
        while time.monotonic() < started + seconds:
            await seen.time(ask)

    await asyncio.gather(*(client() for _ in range(count)))
    seen.took = time.monotonic() - started
    return seen


async def probe(per_second: float, until: Callable[[], bool], ask: Ask) -> Seen:
    """Ask at a steady rate, whatever becomes of the answers, until told to end."""
    seen, started, asked = Seen(), time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while not until():
            group.create_task(seen.time(ask))
            asked += 1
            await asyncio.sleep(max(0.0, started + asked / per_second - time.monotonic()))
    seen.took = time.monotonic() - started
    return seen


def after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline
