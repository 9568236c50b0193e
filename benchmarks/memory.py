"""Memory of an API process and a worker under a steady load, minute by minute."""

import asyncio
import os
import time

import aiohttp
import psutil

from dev.stack import local_sandbox, service
from service.settings import Settings

MINUTES = float(os.environ.get("MINUTES", "10"))
PER_SECOND = int(os.environ.get("PER_SECOND", "1000"))
CLIENTS = 32


async def steady_load(settings: Settings) -> None:
    """Submit messages at a fixed rate. Print the resident memory and the deliveries of each minute."""
    sandbox = local_sandbox()
    print(f"{PER_SECOND} messages a second for {MINUTES:g} minutes")
    async with service(settings, "benchmark", sandbox, {"concurrency": 64}, overrides={"log_level": "info"}) as (session, _):
        processes = _processes()
        load = asyncio.create_task(_submit(session))
        started, delivered = time.monotonic(), 0
        while not load.done():
            await asyncio.wait({load}, timeout=60)
            memory = ", ".join(f"{name} {process.memory_info().rss / 2**20:.0f} MiB" for name, process in processes.items())
            minutes, now = (time.monotonic() - started) / 60, sandbox.raw
            print(f"  {minutes:4.1f} min: {memory}; {now - delivered:,} delivered", flush=True)
            delivered = now
        print(f"  answers other than 202: {load.result()}")


def _processes() -> dict[str, psutil.Process]:
    """The API and the worker below this process."""
    found = {}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        words = process.cmdline()
        if words[1:3] == ["-m", "api"]:
            found["API"] = process
        elif words[1:] == ["-m", "consumers", "messages"]:
            found["worker"] = process
    return found


async def _submit(session: aiohttp.ClientSession) -> int:
    """Submit at the fixed rate, from some clients. Returns the number of answers other than 202."""
    started, total = time.monotonic(), int(MINUTES * 60 * PER_SECOND)
    numbers, others = iter(range(total)), 0

    async def client() -> None:
        nonlocal others
        for number in numbers:
            await asyncio.sleep(started + number / PER_SECOND - time.monotonic())
            async with session.post("/messages", json={"destination": f"+{number}", "body": "Hello"}) as response:
                others += response.status != 202

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return others
