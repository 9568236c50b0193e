"""Four times the service's capacity: its answers, their latency, their cost, and the delivery of every accepted message."""

import asyncio
import random
import time

import aiohttp

from benchmarks.load import Measurement, after, clients
from benchmarks.processes import costs, describe, process_of
from cli.sandbox import Faults, Sandbox
from dev.stack import free_port, service
from infra.postgres.pool import DatabasePool
from service.settings import Settings

TIMES = 4
SECONDS = 30.0
BATCH = 20  # messages a request, so that the client is not the bottleneck
HIGH, LOW = 5000, 4000
CALL_SECONDS = 10.0
DRAIN_SECONDS = 300.0


async def four_times_too_much(settings: Settings) -> None:
    """Measure the capacity with clients that wait for answers. Then send four times that without waiting."""
    sandbox = Sandbox("127.0.0.1", free_port(), Faults(), random.Random(1))  # noqa: S311  faults
    overrides = {"backlog_high": str(HIGH), "backlog_low": str(LOW)}
    print(f"{TIMES} times the capacity for {SECONDS:g} s, with a backlog limit of {HIGH} (accepting again at {LOW})")
    async with service(settings, "benchmark", sandbox, {"concurrency": 200}, overrides=overrides) as (session, database):
        pool, api = DatabasePool(database, name="benchmark", threads=1), process_of(str(session._base_url))
        capacity = await _capacity(session, pool)
        print(f"  capacity: {capacity:.0f} messages/s, accepted and sent")
        before, at_rest = costs(api), await _jobs(pool)
        accepted, rejected = Measurement(), Measurement()
        rate, until, started = TIMES * capacity / BATCH, after(SECONDS), time.monotonic()
        largest, sent = before["megabytes"], 0
        async with asyncio.TaskGroup() as group:
            while not until():
                group.create_task(_send(session, accepted, rejected))
                sent += 1
                largest = max(largest, costs(api)["megabytes"]) if sent % 50 == 0 else largest
                await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
        accepted.took = rejected.took = time.monotonic() - started
        print(f"  requests of {BATCH} messages: {sent} in {accepted.took:.1f} s")
        for name, answers in (("accepted (202)", accepted), ("rejected (503)", rejected)):
            if answers.seconds:
                times = f"p50 {answers.quantile(50):.1f} ms, p99 {answers.quantile(99):.1f} ms"
                print(f"  {name}: {len(answers.seconds)}, {times}")
        print(f"  connections lost: {rejected.statuses[0]}")
        print(f"  the API: before {describe(before)}; {largest} MiB at most; after {describe(costs(api))}")
        await _drained(pool)
        took = time.monotonic() - started - accepted.took
        jobs = await _jobs(pool) - at_rest
        print(f"  {took:.1f} s later no job waited: {jobs} accepted by the ledger, {sandbox.accepted - at_rest} sent")
        pool.close()


async def _capacity(session: aiohttp.ClientSession, pool: DatabasePool) -> float:
    async def request() -> int:
        async with session.post("/messages", json={"destination": "+1", "body": "Hello"}) as response:
            await response.read()
            return response.status

    await clients(50, 2, request)
    await _drained(pool)
    before, started = await _jobs(pool), time.monotonic()
    await clients(50, 8, request)
    await _drained(pool)
    return (await _jobs(pool) - before) / (time.monotonic() - started)


async def _send(session: aiohttp.ClientSession, accepted: Measurement, rejected: Measurement) -> None:
    messages = [{"destination": "+1", "body": "Hello"}] * BATCH
    started = time.monotonic()
    try:
        async with session.post("/messages/batch", json={"messages": messages}) as response:
            await response.read()
    except aiohttp.ClientConnectionError:
        rejected.statuses[0] += 1
        return
    answers = accepted if response.status == 202 else rejected
    answers.statuses[response.status] += 1
    answers.seconds.append(time.monotonic() - started)


async def _jobs(pool: DatabasePool) -> int:
    return await pool.call(lambda c: int(c.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()), CALL_SECONDS)


async def _drained(pool: DatabasePool) -> None:
    waiting = "SELECT count(*) FROM jobs WHERE status IN ('queued', 'processing', 'retrying')"
    until = after(DRAIN_SECONDS)
    while await pool.call(lambda c: int(c.exec_driver_sql(waiting).scalar_one()), CALL_SECONDS) and not until():  # noqa: ASYNC110  no notification exists
        await asyncio.sleep(0.1)
