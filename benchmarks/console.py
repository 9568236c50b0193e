"""The console and the metrics beside ten million jobs and 200,000 waiting ones: each page's time, and what viewers cost."""

import asyncio
import time
from collections.abc import Iterable
from statistics import quantiles

import aiohttp
import psutil
import sqlalchemy as sa

from benchmarks.lists import CALL_SECONDS, MESSAGES, STEP, analyze, fill
from cli.processes import Program
from dev.stack import local_sandbox, service
from infra.postgres.pool import DatabasePool
from service.settings import Settings

WAITING, REQUESTS, VIEW_SECONDS = 200_000, 100, 20.0
PROGRAMS = (Program("api", "api"), Program("relay", "consumers relay"))
ID = f"{7:012x}70008000{7:012x}"
A_MESSAGE = f"{ID[:8]}-{ID[8:12]}-{ID[12:16]}-{ID[16:20]}-{ID[20:]}"
PAGES = (
    "/",
    "/console/messages",
    "/console/messages?status=failed",
    "/console/messages?destination=%2B1555777",
    "/console/messages?tag=campaign+77",
    "/console/messages?reference=order+777",
    "/console/messages?provider=sandbox",
    f"/console/messages/{A_MESSAGE}",
    "/console/dead-letters",
    "/console/dead-letters?reason=http_400",
    "/console/dead-letters/requeue?reason=http_400",
    "/console/reports",
    "/console/providers",
    "/console/callbacks",
    "/console/keys",
    "/console/settings",
    "/metrics",
)
# The outbox has a row for each, so that the sweep does not publish them, and the rows are not due.
_WAITING = sa.text("""
WITH waiting AS (
    INSERT INTO jobs (id, client_id, kind, provider, priority, destination, body)
    SELECT gen_random_uuid(), 'large', 'message', 'sandbox', 'normal', '+1555' || n, 'Hello' FROM generate_series(1, :count) n
    RETURNING id
)
INSERT INTO outbox (job_id, version, route, queue, due_at)
SELECT id, 1, 'work', 'messages.sandbox.normal', now() + interval '1 day' FROM waiting
""")


async def beside_ten_million(settings: Settings) -> None:
    """Fill a temporary database, then print the time of each page and the load of one and of ten viewers."""
    async with service(settings, "benchmark", local_sandbox(), {}, PROGRAMS) as (session, database):
        pool = DatabasePool(database, name="benchmark", threads=1, scans=True, statement_seconds=CALL_SECONDS)
        started = time.monotonic()
        for first in range(1, MESSAGES + 1, STEP):
            await pool.call(fill(first, min(first + STEP - 1, MESSAGES)), CALL_SECONDS)
        await pool.execute(sa.text("UPDATE jobs SET reason = 'http_400' WHERE status = 'failed'"), CALL_SECONDS)
        await pool.execute(_WAITING, CALL_SECONDS, count=WAITING)
        await pool.call(analyze, CALL_SECONDS)
        print(f"{MESSAGES:,} messages and {WAITING:,} waiting ones in {time.monotonic() - started:.0f} s")
        for page in PAGES:
            print(f"  {page}: {await _time(session, page)}")
        for viewers in (0, 1, 10):
            share = await _load(session, pool, viewers)
            print(f"  {viewers} viewers of the overview: Postgres uses {share:.1%} of a processor")
        pool.close()


async def _time(session: aiohttp.ClientSession, page: str) -> str:
    """The p50 and the p99 of one page, requested again and again."""
    seconds: list[float] = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        async with session.get(page, headers={"Accept": "text/html, text/plain"}) as response:
            await response.read()
            response.raise_for_status()
        seconds.append(time.perf_counter() - began)
    cuts = quantiles(seconds, n=100, method="inclusive")
    return f"p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms"


async def _load(session: aiohttp.ClientSession, pool: DatabasePool, viewers: int) -> float:
    """The share of a processor that the database's sessions use while so many viewers watch."""
    watching = [asyncio.create_task(_watch(session)) for _ in range(viewers)]
    await asyncio.sleep(2)
    before = _seconds(await _backends(pool))
    await asyncio.sleep(VIEW_SECONDS)
    after = _seconds(await _backends(pool))
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    return sum(after[pid] - before.get(pid, 0.0) for pid in after) / VIEW_SECONDS


async def _watch(session: aiohttp.ClientSession) -> None:
    async with session.get("/console/overview/events", timeout=aiohttp.ClientTimeout(total=None)) as response:
        async for _ in response.content:
            pass


async def _backends(pool: DatabasePool) -> list[int]:
    """The sessions of the service in this database."""
    sessions = sa.text(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'posthaste benchmark'"
    )
    return [row["pid"] for row in await pool.fetch(sessions, 10.0)]


def _seconds(pids: Iterable[int]) -> dict[int, float]:
    """Processor seconds by process."""
    return {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids if psutil.pid_exists(pid)}
