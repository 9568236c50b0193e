"""Load: clients with one request at a time, and a probe at a steady rate. Latencies are quantiles."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Request = Callable[[], Awaitable[int]]  # returns the HTTP status


@dataclass
class Measurement:
    """HTTP statuses, and the latencies of successful requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    took: float = 0.0

    async def time(self, request: Request) -> None:
        started = time.monotonic()
        status = await request()
        self.statuses[status] += 1
        if status < 400:
            self.seconds.append(time.monotonic() - started)

    def quantile(self, percent: int) -> float:
        """Milliseconds, of successful requests."""
        return 1000 * statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.took

    def __str__(self) -> str:
        rejected = sum(count for status, count in self.statuses.items() if status >= 400)
        times = f"p50 {self.quantile(50):.1f} ms, p99 {self.quantile(99):.1f} ms"
        return f"{len(self.seconds)} successful ({self.per_second:.0f}/s), {rejected} rejected, {times}"


async def clients(count: int, seconds: float, request: Request) -> Measurement:
    """Run `count` clients for `seconds`. Each sends its next request after an answer."""
    measurement, started = Measurement(), time.monotonic()

    async def client() -> None:
        while time.monotonic() < started + seconds:
            await measurement.time(request)

    await asyncio.gather(*(client() for _ in range(count)))
    measurement.took = time.monotonic() - started
    return measurement


async def probe(per_second: float, until: Callable[[], bool], request: Request) -> Measurement:
    """Send requests at a steady rate until `until()` is true, without waiting for answers."""
    measurement, started, sent = Measurement(), time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while not until():
            group.create_task(measurement.time(request))
            sent += 1
            await asyncio.sleep(max(0.0, started + sent / per_second - time.monotonic()))
    measurement.took = time.monotonic() - started
    return measurement


def after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline
