"""Four times what it can take: what it answers, how soon, what it costs, and whether all that was accepted is sent."""

import asyncio
import random
import time

import aiohttp

from benchmarks.load import Seen, after, clients
from benchmarks.processes import costs, process_of, said
from cli.sandbox import Faults, Sandbox
from cli.temporary import free_port, service
from infra.postgres.pool import DatabasePool
from service.settings import Settings

TIMES = 4
SECONDS = 30.0
BATCH = 20  # messages in a request, so that the client is not what gives out
HIGH, LOW = 5000, 4000
CALL_SECONDS = 10.0
DRAIN_SECONDS = 300.0


async def four_times_too_much(settings: Settings) -> None:
    """First what it can take, by clients that wait for each answer; then four times that, whatever is answered."""
    sandbox = Sandbox("127.0.0.1", free_port(), Faults(), random.Random(1))  # noqa: S311  faults
    overrides = {"BACKLOG_HIGH": str(HIGH), "BACKLOG_LOW": str(LOW)}
    print(f"{TIMES} times the load it can take, for {SECONDS:g} s, with a backlog limit of {HIGH} ({LOW} to open again)")
    async with service(settings, "benchmark", sandbox, {"concurrency": 200}, overrides=overrides) as (session, database):
        pool, api = DatabasePool(database, name="benchmark", threads=1), process_of(str(session._base_url))
        capacity = await _capacity(session, pool)
        print(f"  it can take {capacity:.0f} messages/s, and send them meanwhile")
        before, at_rest = costs(api), await _jobs(pool)
        accepted, refused = Seen(), Seen()
        rate, until, started = TIMES * capacity / BATCH, after(SECONDS), time.monotonic()
        largest, asked = before["megabytes"], 0
        async with asyncio.TaskGroup() as group:
            while not until():
                group.create_task(_ask(session, accepted, refused))
                asked += 1
                largest = max(largest, costs(api)["megabytes"]) if asked % 50 == 0 else largest
                await asyncio.sleep(max(0.0, started + asked / rate - time.monotonic()))
        accepted.took = refused.took = time.monotonic() - started
        print(f"  requests of {BATCH} messages: {asked} in {accepted.took:.1f} s")
        for what, seen in (("taken (202)", accepted), ("refused (503)", refused)):
            if seen.seconds:
                print(f"  {what}: {len(seen.seconds)}, p50 {seen.quantile(50):.1f} ms, p99 {seen.quantile(99):.1f} ms")
        print(f"  connections lost: {refused.statuses[0]}")
        print(f"  the API: before {said(before)}; {largest} MiB at most; after {said(costs(api))}")
        await _drained(pool)
        took = time.monotonic() - started - accepted.took
        jobs = await _jobs(pool) - at_rest
        print(f"  {took:.1f} s later nothing waited: {jobs} accepted by the ledger, {sandbox.accepted - at_rest} sent")
        pool.close()


async def _capacity(session: aiohttp.ClientSession, pool: DatabasePool) -> float:
    async def ask() -> int:
        async with session.post("/messages", json={"destination": "+1", "body": "Hello"}) as response:
            await response.read()
            return response.status

    await clients(50, 2, ask)
    await _drained(pool)
    before, started = await _jobs(pool), time.monotonic()
    await clients(50, 8, ask)
    await _drained(pool)
    return (await _jobs(pool) - before) / (time.monotonic() - started)


async def _ask(session: aiohttp.ClientSession, accepted: Seen, refused: Seen) -> None:
    messages = [{"destination": "+1", "body": "Hello"}] * BATCH
    started = time.monotonic()
    try:
        async with session.post("/messages/batch", json={"messages": messages}) as response:
            await response.read()
    except aiohttp.ClientConnectionError:
        refused.statuses[0] += 1
        return
    seen = accepted if response.status == 202 else refused
    seen.statuses[response.status] += 1
    seen.seconds.append(time.monotonic() - started)


async def _jobs(pool: DatabasePool) -> int:
    return await pool.call(lambda c: int(c.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()), CALL_SECONDS)


async def _drained(pool: DatabasePool) -> None:
    waiting = "SELECT count(*) FROM jobs WHERE status IN ('queued', 'processing', 'retrying')"
    until = after(DRAIN_SECONDS)
    while await pool.call(lambda c: int(c.exec_driver_sql(waiting).scalar_one()), CALL_SECONDS) and not until():  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(0.1)
