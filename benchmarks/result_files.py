"""Whole results of reports in each format: seconds, bytes, and the peak memory of the API process."""

import asyncio
import time
from uuid import UUID, uuid4

import aiohttp
import psutil
import psycopg2
from uuid_utils.compat import uuid7

from cli.processes import Program
from dev.stack import local_sandbox, service
from service.settings import Settings

USERS = (1_000_000, 5_000_000)
FORMATS = ("json", "csv", "arrow", "parquet")
CHUNK_BYTES = 256 * 1024
WATCH_SECONDS = 0.05

_JOB = """
INSERT INTO jobs (id, kind, status, version, claim_token, finished_at)
VALUES (%(id)s, 'report', 'completed', 3, %(token)s, now())
"""
_RESULT = """
INSERT INTO report_results (job_id, claim_token, posts, users, words, snapshot_at, parameters, sha256)
VALUES (%(id)s, %(token)s, %(users)s, %(users)s, %(users)s, now(), '{}', '')
"""
_TOTALS = """
INSERT INTO report_totals (job_id, claim_token, user_id, total_words)
SELECT %(id)s, %(token)s, n, CAST(n AS bigint) * 7 %% 100000 FROM generate_series(1, %(users)s) n
"""


async def whole_results(settings: Settings) -> None:
    """Download whole results of 1 and 5 million users in each format."""
    programs = [Program("api", "api")]
    async with service(settings, "results", local_sandbox(), {}, programs) as (session, database):
        ids = {users: await asyncio.to_thread(_insert, database, users) for users in USERS}
        api = next(each for each in psutil.Process().children(recursive=True) if each.cmdline()[1:3] == ["-m", "api"])
        print(f"whole results; the API's memory before: {_memory(api)} MB")
        for form in FORMATS:
            for users, id_ in ids.items():
                peak, started = [0], time.perf_counter()
                watching = asyncio.create_task(_watch(api, peak))
                size = await _download(session, f"/api/2.0/report/jobs/{id_}/result?format={form}")
                watching.cancel()
                seconds = time.perf_counter() - started
                print(f"  {form} of {users:,} users: {size / 1e6:.1f} MB in {seconds:.1f} s; peak {peak[0]} MB", flush=True)


def _insert(database: str, users: int) -> UUID:
    """The id of a completed report with totals of so many users."""
    id_ = uuid7()
    values = {"id": str(id_), "token": str(uuid4()), "users": users}
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        for statement in (_JOB, _RESULT, _TOTALS, "ANALYZE report_totals"):
            cursor.execute(statement, values)
    connection.close()
    return id_


async def _download(session: aiohttp.ClientSession, path: str) -> int:
    async with session.get(path, timeout=aiohttp.ClientTimeout(600)) as response:
        response.raise_for_status()
        return sum([len(chunk) async for chunk in response.content.iter_chunked(CHUNK_BYTES)])


async def _watch(api: psutil.Process, peak: list[int]) -> None:
    while True:
        peak[0] = max(peak[0], _memory(api))
        await asyncio.sleep(WATCH_SECONDS)


def _memory(process: psutil.Process) -> int:
    return int(process.memory_info().rss) >> 20
