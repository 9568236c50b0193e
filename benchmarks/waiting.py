"""Thousands of clients wait at one API process: the latency of their notifications, and their cost."""

import asyncio
import json
import statistics
import time
from collections import Counter
from datetime import datetime
from typing import Any

import aiohttp
from redis import Redis

from benchmarks.load import after
from benchmarks.processes import costs, describe, process_of
from dev.stack import local_sandbox, service
from infra.postgres.pool import DatabasePool
from infra.postgres.providers import ProviderStore
from service.settings import Settings

POLLS, STREAMS = 5000, 1000
BATCH = 500
ARRIVALS = 100  # clients in a tenth of a second
SECONDS = 55  # a long-poll's wait
CALL_SECONDS = 10.0


async def thousands_wait(settings: Settings) -> None:
    """Start long-polls and streams on jobs of a paused provider. Resume it and wait until all end."""
    sandbox = local_sandbox()
    print(f"{POLLS} long-polls and {STREAMS} event streams at one API process")
    async with service(settings, "benchmark", sandbox, {}) as (session, database):
        pool = DatabasePool(database, name="benchmark", threads=1)
        store, api = ProviderStore(pool), process_of(str(session._base_url))
        await store.pause("sandbox", CALL_SECONDS)
        await asyncio.sleep(1)  # workers pause within a second
        ids = await _submit(session)
        before = costs(api)
        notifications: dict[str, tuple[str, float]] = {}
        clients = [_poll(session, id_, notifications) for id_ in ids] + [
            _stream(session, id_, notifications) for id_ in ids[:STREAMS]
        ]
        waiting = []
        for start in range(0, len(clients), ARRIVALS):
            waiting += [asyncio.create_task(client) for client in clients[start : start + ARRIVALS]]
            await asyncio.sleep(0.1)
        until = after(CALL_SECONDS * 2)
        while costs(api)["descriptors"] < POLLS + STREAMS and not until():  # noqa: ASYNC110  no notification exists
            await asyncio.sleep(0.1)
        print(f"  before: {describe(before)}; with all of them: {describe(costs(api))}")
        with Redis.from_url(settings.redis_url) as redis:
            print(f"  subscribed connections at Redis: {sum(' sub=0 ' not in line for line in _clients(redis))}")
        await store.resume("sandbox", CALL_SECONDS)
        resumed = time.time()
        await asyncio.gather(*waiting)
        answers = ", ".join(
            f"{count} {status}" for status, count in Counter(status for status, _ in notifications.values()).items()
        )
        print(f"  all notified {time.time() - resumed:.1f} s after the provider was resumed: {answers}")
        late = await _lateness(pool, notifications)
        cuts = statistics.quantiles(late, n=100, method="inclusive")
        print(f"  from the commit to the client: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms")
        pool.close()


async def _submit(session: aiohttp.ClientSession) -> list[str]:
    ids: list[str] = []
    for start in range(0, POLLS, BATCH):
        messages = [{"destination": f"+{start + n}", "body": "Hello"} for n in range(BATCH)]
        async with session.post("/messages/batch", json={"messages": messages}) as response:
            ids += [item["id"] for item in (await response.json())["data"]]
    return ids


async def _poll(session: aiohttp.ClientSession, id_: str, notifications: dict[str, tuple[str, float]]) -> None:
    async with session.get(f"/messages/{id_}", headers={"Prefer": f"wait={SECONDS}"}) as response:
        answer = await response.json()
    if response.status != 200:
        answer = {"id": id_, "status": f"{response.status}"}
    notifications[f"poll {id_}"] = (answer["status"] if answer["id"] == id_ else "another job", time.time())


async def _stream(session: aiohttp.ClientSession, id_: str, notifications: dict[str, tuple[str, float]]) -> None:
    async with session.get(f"/messages/{id_}/events") as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                event: dict[str, Any] = json.loads(line[6:])
                notifications[f"stream {id_}"] = (event["status"] if event["id"] == id_ else "another job", time.time())


async def _lateness(pool: DatabasePool, notifications: dict[str, tuple[str, float]]) -> list[float]:
    """Milliseconds from each job's end, by Postgres' clock, to its clients. All share one machine's clock."""

    def ends(connection: Any) -> dict[str, datetime]:
        return {str(id_): at for id_, at in connection.exec_driver_sql("SELECT id, finished_at FROM jobs")}

    finished = await pool.call(ends, CALL_SECONDS)
    return [1000 * (at - finished[name.split()[1]].timestamp()) for name, (_, at) in notifications.items()]


def _clients(redis: Redis) -> list[str]:
    return [" ".join(f"{name}={value}" for name, value in client.items()) for client in redis.client_list()]
