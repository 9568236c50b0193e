"""Reports in the request and reports as jobs, with 50 clients each; messages during large reports.

ROWS (200,000) is the number of posts of the one large report beside which messages are measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import psycopg2

from benchmarks.load import Request, after, clients, probe
from benchmarks.report_computing import computing, posts_of, vacuum
from cli.processes import Program
from dev.stack import MESSAGES, local_sandbox, service
from service.post_recipe import Recipe
from service.seeding import seed
from service.settings import Settings

CLIENTS = 50
SECONDS = 15.0
POSTS, MANY_POSTS = 5_000, 200_000
REPORTS = 20
PROBES_PER_SECOND = 20


async def in_the_request_or_as_a_job(settings: Settings) -> None:
    """Measure the latency of 50 clients' reports of 5,000 posts, and of messages at the same time."""
    async with _service(settings) as (session, database):
        await _fill(database, POSTS, 100)
        print(
            f"reports of {POSTS:,} posts, {CLIENTS} clients for {SECONDS:g} s; messages: {PROBES_PER_SECOND}/s at the same time"
        )
        for name, request in (
            ("1.0, in the request", _request(session, "GET", "/api/1.0/report/posts")),
            ("2.0, as a job", _request(session, "POST", "/api/2.0/report/posts")),
        ):
            reports, messages = await asyncio.gather(
                clients(CLIENTS, SECONDS, request), probe(PROBES_PER_SECOND, after(SECONDS), _message(session))
            )
            print(f"  {name}: {reports}")
            print(f"    messages at the same time: {messages}")


async def all_of_reports(settings: Settings) -> None:
    """The computing alone, then under 50 clients, then beside messages."""
    await computing(settings)
    await in_the_request_or_as_a_job(settings)
    await messages_beside_one_large_report(settings)


async def messages_beside_one_large_report(settings: Settings) -> None:
    """Measure POST /messages at rest and beside one report of ROWS posts, and the dead rows that its snapshot keeps."""
    rows = posts_of("ROWS", MANY_POSTS)
    async with _service(settings) as (session, database):
        await _fill(database, rows, 1000)
        await asyncio.to_thread(vacuum, database)
        await probe(PROBES_PER_SECOND, after(3), _message(session))
        idle = await probe(PROBES_PER_SECOND, after(SECONDS), _message(session))
        before = await asyncio.to_thread(_dead_rows, database)
        await _request(session, "POST", "/api/2.0/report/posts")()
        completed = asyncio.create_task(_completed(session))
        busy = await probe(PROBES_PER_SECOND, completed.done, _message(session))
        await completed
        later = await asyncio.to_thread(_dead_rows, database)
        print(f"messages beside one report of {rows:,} posts ({PROBES_PER_SECOND} messages/s)")
        print(f"  idle: {idle}")
        print(f"  busy: {busy} (the report took {busy.took:.1f} s)")
        print(f"  p99 of POST /messages, busy to idle: {busy.quantile(99) / idle.quantile(99):.2f}")
        print(f"  dead rows before the report: {before}; after it: {later}")


def _dead_rows(url: str) -> str:
    """The dead rows of the hot tables, by Postgres' statistics."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(1)")  # statistics are reported up to a second late
        cursor.execute("SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE relname IN ('jobs', 'outbox') ORDER BY 1")
        return ", ".join(f"{name} {count:,}" for name, count in cursor.fetchall())


async def messages_while_reports_run(settings: Settings) -> None:
    """Measure POST /messages and report states before and during 20 reports of 200,000 posts."""
    async with _service(settings) as (session, database):
        await _fill(database, MANY_POSTS, 1000)
        await probe(PROBES_PER_SECOND, after(3), _message(session))
        idle = await probe(PROBES_PER_SECOND, after(SECONDS), _message(session))
        for _ in range(REPORTS):
            await _request(session, "POST", "/api/2.0/report/posts")()
        completed = asyncio.create_task(_completed(session))
        busy, statuses = await asyncio.gather(
            probe(PROBES_PER_SECOND, completed.done, _message(session)),
            probe(PROBES_PER_SECOND, completed.done, _request(session, "GET", "/api/2.0/report/jobs?limit=1")),
        )
        print(f"messages during {REPORTS} reports of {MANY_POSTS:,} posts run ({PROBES_PER_SECOND} messages/s)")
        print(f"  idle: {idle}")
        print(f"  busy: {busy} (the reports took {busy.took:.1f} s)")
        print(f"  report states at the same time: {statuses}")
        print(f"  p99 of POST /messages, busy to idle: {busy.quantile(99) / idle.quantile(99):.2f}")


async def _fill(database: str, posts: int, users: int) -> None:
    await asyncio.to_thread(seed, database, Recipe(posts, users, 10, 100, 1, time.time_ns() // 1000), 1)


async def _completed(session: aiohttp.ClientSession) -> None:
    while True:
        async with session.get(f"/api/2.0/report/jobs?limit={REPORTS}") as response:
            states = [job["status"] for job in (await response.json())["data"]]
        if all(state == "completed" for state in states):
            return
        await asyncio.sleep(0.1)


@asynccontextmanager
async def _service(settings: Settings) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    sandbox = local_sandbox()
    programs = [*MESSAGES, Program("reporter", "consumers reports")]
    async with service(settings, "benchmark", sandbox, {}, programs) as (session, database):
        yield session, database


def _request(session: aiohttp.ClientSession, method: str, path: str) -> Request:
    async def request() -> int:
        async with session.request(method, path) as response:
            await response.read()
            return response.status

    return request


def _message(session: aiohttp.ClientSession) -> Request:
    async def request() -> int:
        async with session.post("/messages", json={"destination": "+15550001", "body": "Hello"}) as response:
            await response.read()
            return response.status

    return request
