"""Procrastinate: the queue is a table in Postgres. One INSERT accepts a job; a periodic task retries stalled jobs.

https://procrastinate.readthedocs.io/en/stable/howto/basics/worker.html
https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html
https://procrastinate.readthedocs.io/en/stable/howto/advanced/asyncio.html
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from starlette.applications import Starlette

from benchmarks.peers.services.web import DATABASE, PROVIDER, SLOTS, service

jobs = App(connector=PsycopgConnector(conninfo=DATABASE, min_size=4, max_size=32))
_clients: list[aiohttp.ClientSession] = []


def _http() -> aiohttp.ClientSession:
    if not _clients:
        _clients.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=SLOTS)))
    return _clients[0]


@jobs.task(retry=10)
async def deliver(destination: str, body: str) -> None:
    async with _http().post(PROVIDER, json={"destination": destination, "body": body}) as answer:
        answer.raise_for_status()


@jobs.periodic(cron="* * * * * */5")
@jobs.task(queueing_lock="retry_stalled")
async def retry_stalled(timestamp: int) -> None:
    for job in await jobs.job_manager.get_stalled_jobs(seconds_since_heartbeat=30):
        await jobs.job_manager.retry_job(job)


@asynccontextmanager
async def _connected(_app: Starlette) -> AsyncIterator[None]:
    async with jobs.open_async():
        yield


async def _submit(destination: str, body: str) -> str:
    return str(await deliver.defer_async(destination=destination, body=body))


async def _read(id_: str) -> str:
    status = await jobs.job_manager.get_job_status_async(int(id_))
    return "sent" if status is Status.SUCCEEDED else "queued"


app = service(_submit, _read, _connected)
