"""The cost of events that nobody watches: what other API processes pay while one accepts messages."""

import asyncio
import os
import time

import aiohttp
import psutil
import sqlalchemy as sa

from benchmarks.load import after
from cli.processes import Program, api_program
from dev.stack import local_sandbox, service
from infra.postgres.pool import DatabasePool
from service.settings import Settings

MESSAGES, BATCH, PROCESSES = 10_000, 500, 4
SECONDS, SETTLE_SECONDS = 120.0, 8.0


async def nobody_watches(settings: Settings) -> None:
    """Send messages through one of four API processes. Print the processor time of each beside its idle time."""
    print(f"{MESSAGES} messages accepted by one of {PROCESSES} API processes and sent, while no client waits")
    programs = [api_program(PROCESSES), Program("worker", "consumers messages"), Program("relay", "consumers relay")]
    async with service(settings, "benchmark", local_sandbox(), {"concurrency": 64}, programs) as (session, database):
        apis = [each for each in psutil.Process(os.getpid()).children(recursive=True) if each.cmdline()[1:3] == ["-m", "api"]]
        await asyncio.sleep(SETTLE_SECONDS)  # all have started
        before, started = [_seconds(api) for api in apis], time.monotonic()
        await _send_all(session, database)
        sent, seconds = [_seconds(api) for api in apis], time.monotonic() - started
        await asyncio.sleep(seconds)
        after_all = [_seconds(api) for api in apis]
    rows = sorted(zip(before, sent, after_all, strict=True), key=lambda row: row[0] - row[1])
    for number, (start, middle, end) in enumerate(rows):
        role = "accepting" if number == 0 else "another"
        print(
            f"  {role}: {middle - start:.2f} s of processor; {end - middle:.2f} s in the same {seconds:.1f} s without messages"
        )


def _seconds(process: psutil.Process) -> float:
    """Processor seconds of a process."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def _send_all(session: aiohttp.ClientSession, database: str) -> None:
    """Submit all on one connection, which one process has, and wait until all are sent."""
    for start in range(0, MESSAGES, BATCH):
        messages = [{"destination": f"+{start + number}", "body": "Hello"} for number in range(BATCH)]
        async with session.post("/messages/batch", json={"messages": messages}) as response:
            response.raise_for_status()
            await response.read()
    pool, expired = DatabasePool(database, name="benchmark", threads=1), after(SECONDS)
    count = sa.text("SELECT count(*) FROM jobs WHERE status <> 'sent'")
    while await pool.value(count, 10.0) and not expired():  # noqa: ASYNC110  another process has no event
        await asyncio.sleep(0.2)
    pool.close()
