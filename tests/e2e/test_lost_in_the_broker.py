"""Messages lost in the broker are republished automatically; `rebuild` does it immediately."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.services import Services, management
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

QUEUE = "messages.sandbox.normal"


@pytest.fixture
async def stack(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Stack]:
    async with running(
        services, database, broker_namespace, tmp_path, sweep_after_seconds=getattr(request, "param", "1")
    ) as started:
        yield started


async def _purge_with_jobs(stack: Stack, count: int) -> list[str]:
    """Accept jobs without a worker, and purge their queue once it holds all their messages."""
    await stack.processes["worker"].kill()
    ids = list(await asyncio.gather(*(stack.submit(f"+{n}") for n in range(count))))

    async def unpublished() -> list[tuple[object, ...]]:
        return stack.rows("SELECT count(*) FROM outbox")

    await eventually(unpublished, lambda rows: rows == [(0,)], 15)
    await management(stack.services, "DELETE", f"/api/queues/%2F/{stack.namespace}.{QUEUE}/contents")
    return ids


async def test_a_purged_queue_heals_by_itself(stack: Stack) -> None:
    await _purge_with_jobs(stack, 300)
    stack.start("worker2", "consumers", "messages")
    await stack.all_become("sent", 300, 40)
    assert (await stack.provider("/stats"))["unique"] == 300
    await stack.processes["relay"].until_logged("sweep.requeued")


async def test_a_queue_deleted_under_its_consumers_heals_by_itself(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=0.2)
    await asyncio.gather(*(stack.submit(f"+{n}") for n in range(200)))
    await management(stack.services, "DELETE", f"/api/queues/%2F/{stack.namespace}.{QUEUE}")
    await stack.faults(slow=0)
    more = await asyncio.gather(*(stack.submit(f"+{n}") for n in range(50)))
    await stack.all_become("sent", 250, 60)
    for id_ in more:  # the cache may be seconds behind the ledger
        await stack.becomes(id_, "sent")


@pytest.mark.parametrize("stack", ["600"], indirect=True)
async def test_rebuild_heals_a_purged_queue_at_once(stack: Stack) -> None:
    await _purge_with_jobs(stack, 200)
    stack.start("worker2", "consumers", "messages")
    await _rebuild(stack, "200 jobs to publish")
    await stack.all_become("sent", 200, 30)


@pytest.mark.parametrize("stack", ["600"], indirect=True)
async def test_rebuild_refills_a_wiped_dead_queue_and_leaves_a_full_one(stack: Stack) -> None:
    await stack.faults(fail=1, fail_status=400)
    for n in range(5):
        await stack.submit(f"+{n}")
    await stack.all_become("failed", 5)
    dead = f"/api/queues/%2F/{stack.namespace}.messages.dead"
    body = {"count": 10, "ackmode": "ack_requeue_true", "encoding": "auto"}

    async def copies() -> object:
        return await management(stack.services, "POST", f"{dead}/get", body)

    before = await eventually(copies, lambda messages: isinstance(messages, list) and len(messages) == 5, 15)
    await _rebuild(stack, "not empty")
    await management(stack.services, "DELETE", f"{dead}/contents")
    await _rebuild(stack, "5 dead letters")
    after = await eventually(copies, lambda messages: isinstance(messages, list) and len(messages) == 5, 15)
    assert _comparable(after) == _comparable(before)


def _comparable(copies: object) -> list[tuple[str, object]]:
    assert isinstance(copies, list)
    comparable = [(copy["payload"], copy["properties"]["headers"] | {"x-delivery-count": None}) for copy in copies]
    return sorted(comparable, key=lambda pair: pair[0])


async def _rebuild(stack: Stack, expected: str) -> None:
    ran = await stack.command("rebuild")
    assert ran.returncode == 0, ran.stderr
    assert expected in ran.stdout
