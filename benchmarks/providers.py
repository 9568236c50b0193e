"""One of two providers hangs for a minute: its attempts, and the other provider's latency."""

import asyncio
import random
import statistics
import time
from datetime import datetime

import aiohttp

from benchmarks.load import after
from cli.sandbox import Faults, Sandbox
from dev.stack import free_port, service
from service.settings import Settings

MESSAGES = 200  # to the provider that hangs
SECONDS = 60.0
PER_SECOND = 20


async def one_of_two_hangs(settings: Settings) -> None:
    """Measure p50 and p99 from acceptance to `sent` before and during the hang, and the time to recover."""
    healthy, hanging = (Sandbox("127.0.0.1", free_port(), Faults(), random.Random(1)) for _ in range(2))  # noqa: S311  faults
    async with service(settings, "benchmark", healthy, {}, others={"other": hanging}) as (session, _):
        print(f"one of two providers hangs for {SECONDS:g} s ({PER_SECOND} messages/s to the other)")
        print(f"  before: {await _sent(session, await _steady(session, SECONDS / 4))} to sent")
        hanging.faults = Faults(hang=1)
        waiting = [await _submit(session, "other") for _ in range(MESSAGES)]
        print(f"  during the hang: {await _sent(session, await _steady(session, SECONDS))} to sent")
        print(f"  attempts at the hanging provider, for its {MESSAGES} messages: {hanging.raw}")
        hanging.faults, recovered = Faults(), time.monotonic()
        await _sent(session, waiting)
        print(f"  recovered: all of them sent after {time.monotonic() - recovered:.1f} s")


async def _submit(session: aiohttp.ClientSession, provider: str) -> str:
    fields = {"destination": "+15550001", "body": "Hello", "provider": provider}
    async with session.post("/messages", json=fields) as response:
        return str((await response.json())["id"])


async def _steady(session: aiohttp.ClientSession, seconds: float) -> list[str]:
    until, ids = after(seconds), []
    while not until():
        ids.append(await _submit(session, "sandbox"))
        await asyncio.sleep(1 / PER_SECOND)
    return ids


async def _sent(session: aiohttp.ClientSession, ids: list[str]) -> str:
    """Wait until all are sent. Returns p50 and p99 by Postgres' clock."""
    milliseconds: list[float] = []
    for id_ in ids:
        while (record := await _record(session, id_))["status"] != "sent":  # noqa: ASYNC110  no notification is measured
            await asyncio.sleep(0.05)
        took = datetime.fromisoformat(record["finished_at"]) - datetime.fromisoformat(record["created_at"])
        milliseconds.append(1000 * took.total_seconds())
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return f"p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms"


async def _record(session: aiohttp.ClientSession, id_: str) -> dict[str, str]:
    async with session.get(f"/messages/{id_}") as response:
        return dict(await response.json())
