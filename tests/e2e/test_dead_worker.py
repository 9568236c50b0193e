"""A worker that dies with jobs in flight: another worker takes them back long before their leases end."""

from pathlib import Path

from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

LEASE = "60"
SECONDS = 30  # far less than the lease, and enough for a busy machine
LOCKS = """SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'
    AND application_name = 'posthaste worker lock' AND datname = current_database()"""


async def _locks(stack: Stack, count: int) -> set[object]:
    """The sessions of living workers, once there are so many."""

    async def pids() -> set[object]:
        return {pid for (pid,) in stack.rows(LOCKS)}

    return await eventually(pids, lambda running: len(running) == count, SECONDS)


async def test_the_jobs_of_a_killed_worker_are_retried_long_before_their_leases_end(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    provider = {"timeout_seconds": 40}
    async with running(services, database, broker_namespace, tmp_path, provider=provider, lease_seconds=LEASE) as stack:
        await stack.faults(hang=1)
        often = [await stack.submit(f"+{n}") for n in range(5)]
        once = [await stack.submit(f"+{n}", delivery="at_most_once") for n in range(5, 8)]
        await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] == 8, SECONDS)
        stack.start("worker2", "consumers", "messages")
        await _locks(stack, 2)
        await stack.faults(hang=0)
        await stack.processes["worker"].kill()
        await stack.all_or(SECONDS, sent=5, unknown=3)
        assert {(await stack.record(id_))["reason"] for id_ in once} == {"lease_lost"}
        assert {(await stack.record(id_))["attempts"] for id_ in often} == {1}
        stats = await stack.provider("/stats")
        assert (stats["raw"], stats["accepted"]) == (13, 5)
        await stack.processes["worker2"].until_logged("worker.dead")


async def test_a_worker_that_starts_again_takes_back_its_own_jobs(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    provider = {"timeout_seconds": 40}
    async with running(services, database, broker_namespace, tmp_path, provider=provider, lease_seconds=LEASE) as stack:
        await stack.faults(hang=1)
        id_ = await stack.submit()
        await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] == 1, SECONDS)
        await stack.processes["worker"].kill()
        await stack.faults(hang=0)
        stack.start("worker", "consumers", "messages")
        await stack.becomes(id_, "sent", seconds=SECONDS)


async def test_a_living_worker_that_loses_the_session_of_its_lock_keeps_its_jobs(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    """The grace exceeds the time in which a busy machine acquires the lock again."""
    async with running(
        services,
        database,
        broker_namespace,
        tmp_path,
        provider={"timeout_seconds": 40},
        lease_seconds=LEASE,
        worker_grace_seconds="20",
    ) as stack:
        await stack.faults(slow=1, slow_seconds=8)
        id_ = await stack.submit()
        await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] == 1, SECONDS)
        (lost,) = await _locks(stack, 1)
        stack.start("worker2", "consumers", "messages")
        await _locks(stack, 2)
        stack.rows(f"SELECT pg_terminate_backend({lost})")
        await eventually(lambda: _locks(stack, 2), lambda pids: lost not in pids, SECONDS)
        await stack.faults(slow=0)
        await stack.submit()  # claimed under the new session
        await stack.all_or(SECONDS, sent=2)
        record = await stack.record(id_)
        assert (record["version"], record["attempts"]) == (3, 1)
        assert (await stack.provider("/stats"))["raw"] == 2
