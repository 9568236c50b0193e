"""Processor time of one POST by each well-kept asynchronous HTTP client, 64 at once: `make bench ONLY=clients`.

The clients that Posthaste does not use are in .venv-bench. The server is the provider of the comparison, in its own process.
"""

import asyncio
import site
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import uvloop

from benchmarks.peers.client import connect
from benchmarks.peers.running import serving_provider
from benchmarks.peers.systems import PEERS_PYTHON

REQUESTS, AT_ONCE, REPEATS = 3000, 64, 3
BODY = b'{"destination":"+15550001","body":"Hello"}'
HEADERS = {"Content-Type": "application/json", "Idempotency-Key": "01a2276a-43a6-7284-a3f7-50fc8687d4cb"}
Post = Callable[[], Awaitable[object]]


@asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Post]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE), headers=HEADERS) as session:

        async def post() -> None:
            async with session.post(url, data=BODY, allow_redirects=False) as response:
                await response.read()

        yield post


@asynccontextmanager
async def _httpx(url: str) -> AsyncIterator[Post]:
    import httpx

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=AT_ONCE), headers=HEADERS) as client:
        yield lambda: client.post(url, content=BODY)


@asynccontextmanager
async def _niquests(url: str) -> AsyncIterator[Post]:
    import niquests

    async with niquests.AsyncSession(pool_maxsize=AT_ONCE) as session:
        yield lambda: session.post(url, data=BODY, headers=HEADERS)


@asynccontextmanager
async def _bare(url: str) -> AsyncIterator[Post]:
    """httptools on asyncio's own protocols, without timeouts, pools and checks: the floor."""
    idle = [await connect(url.rpartition("/")[0]) for _ in range(AT_ONCE)]

    async def post() -> None:
        connection = idle.pop()
        await connection.request("POST", "/message", BODY)
        idle.append(connection)

    yield post


CLIENTS = {"httptools alone (the floor)": _bare, "aiohttp": _aiohttp, "httpx": _httpx, "niquests": _niquests}


async def _microseconds(post: Post) -> float:
    numbers = iter(range(REQUESTS))

    async def caller() -> None:
        for _ in numbers:
            await post()

    started = time.process_time()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return (time.process_time() - started) / REQUESTS * 1e6


async def main() -> None:
    """Print the medians of three interleaved repeats."""
    results: dict[str, list[float]] = {name: [] for name in CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        async with serving_provider(Path(folder), sys.executable) as (provider, _):
            for _ in range(REPEATS):
                for name, client in CLIENTS.items():
                    async with client(f"{provider.base}/message") as post:
                        await post()
                        results[name].append(await _microseconds(post))
    floor = median(results[next(iter(CLIENTS))])
    for name, times in results.items():
        print(f"{name}: {median(times):.0f} us of processor a POST, {median(times) / floor:.1f} of the floor")


if __name__ == "__main__":
    for folder in PEERS_PYTHON.parents[1].glob("lib/python*/site-packages"):
        site.addsitedir(str(folder))
    uvloop.run(main())
