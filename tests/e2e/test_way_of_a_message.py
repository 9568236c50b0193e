"""One message end to end, through real processes: accepted, sent, retried, failed."""

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.services import Services, management
from tests.support.stack import Stack, running
from tests.support.waiting import eventually


@pytest.mark.reuses_stack
async def test_a_message_is_accepted_and_sent_once(stack: Stack) -> None:
    async with stack.session.post(f"{stack.base}/messages", json={"destination": "+1", "body": "héllo"}) as response:
        answer = await response.json()
        assert response.status == 202
        assert response.headers["Location"] == f"/message/{answer['id']}/status"
    assert set(answer) == {"id", "status", "created_at", "links"}
    assert answer["status"] == "queued"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["created_at"])
    await stack.becomes(answer["id"], "sent")
    assert await stack.get(f"/message/{answer['id']}/status") == (200, {"status": "sent"})
    assert await stack.get(f"/messages/{answer['id']}/status") == (200, {"status": "sent"})
    (received,) = await stack.provider("/messages")
    assert (received["destination"], received["body"]) == ("+1", "héllo")
    assert received["idempotency_key"] == answer["id"]
    record = await stack.record(answer["id"])
    assert (record["status"], record["attempts"], record["version"], record["reason"]) == ("sent", 1, 3, None)


@pytest.mark.reuses_stack
async def test_nothing_is_left_behind_a_sent_message(stack: Stack) -> None:
    for id_ in [await stack.submit() for _ in range(5)]:
        await stack.becomes(id_, "sent")

    async def outbox_rows() -> list[tuple[object, ...]]:
        return stack.rows("SELECT count(*) FROM outbox")

    await eventually(outbox_rows, lambda rows: rows == [(0,)], 5)
    assert stack.rows("SELECT count(*) FROM jobs WHERE lease_until IS NOT NULL") == [(0,)]


async def test_a_provider_that_fails_for_a_while_is_tried_again(stack: Stack) -> None:
    await stack.faults(fail=1)
    id_ = await stack.submit()
    await stack.becomes(id_, "retrying")
    await stack.faults(fail=0)
    await stack.becomes(id_, "sent")
    keys = {received["idempotency_key"] for received in await stack.provider("/messages")}
    assert keys == {id_}


async def _dead_letter(stack: Stack) -> dict[str, Any]:
    """The one message in the dead queue, as the management API shows it."""
    path = f"/api/queues/%2F/{stack.namespace}.messages.dead/get"
    body = {"count": 10, "ackmode": "ack_requeue_true", "encoding": "auto"}

    async def read() -> Any:
        return await management(stack.services, "POST", path, body)

    (found,) = await eventually(read, lambda rows: len(rows) == 1, 15)
    return dict(found)


async def test_attempts_exhausted_ends_in_the_dead_queue_that_says_why(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    provider = {"retry": {"attempts": 3, "base_seconds": 0.05, "cap_seconds": 0.1}}
    async with running(services, database, broker_namespace, tmp_path, provider=provider) as stack:
        await stack.faults(fail=1, fail_status=500)
        id_ = await stack.submit()
        await stack.becomes(id_, "failed")
        record = await stack.record(id_)
        assert (record["attempts"], record["reason"]) == (3, "attempts_exhausted")
        dead = await _dead_letter(stack)
        headers = dead["properties"]["headers"]
        assert headers["reason"] == "attempts_exhausted"
        assert (headers["attempts"], headers["provider_code"], headers["kind"]) == (3, 500, "message")
        assert headers["provider"] == "sandbox"
        assert 0 <= headers["failed_at_ms"] - headers["created_at_ms"] < 30_000
        assert id_ in dead["payload"] and "hello" not in dead["payload"]
        assert (await stack.provider("/stats"))["raw"] == 3


@pytest.mark.reuses_stack
async def test_a_message_rejected_for_good_fails_after_one_attempt(stack: Stack) -> None:
    await stack.faults(fail=1, fail_status=400)
    id_ = await stack.submit()
    await stack.becomes(id_, "failed")
    headers = (await _dead_letter(stack))["properties"]["headers"]
    assert (headers["reason"], headers["attempts"], headers["provider_code"]) == ("http_400", 1, 400)
    assert (await stack.provider("/stats"))["raw"] == 1


async def test_a_provider_that_hangs_resets_or_refuses_is_tried_again(stack: Stack) -> None:
    await stack.faults(hang=0.3, reset=0.3)
    ids = [await stack.submit(f"+{n}") for n in range(12)]
    await asyncio.sleep(0)
    await stack.faults(hang=0.1, reset=0.1, refuse_seconds=1)
    await eventually(lambda: _reachable(stack), bool, 10)
    await stack.faults(hang=0, reset=0)
    for id_ in ids:
        await stack.becomes(id_, "sent")
    assert (await stack.provider("/stats"))["unique"] == 12


async def _reachable(stack: Stack) -> bool:
    try:
        await stack.provider("/stats")
    except aiohttp.ClientConnectionError:
        return False
    return True


async def test_with_one_slot_the_provider_sees_the_order_of_acceptance(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    # A head start so long that the relay, which keeps no order, never steps in on a busy machine.
    async with running(
        services, database, broker_namespace, tmp_path, provider={"concurrency": 1}, outbox_grace_seconds="60"
    ) as stack:
        for n in range(200):
            await stack.submit(f"+{n}")
        await stack.all_become("sent", 200)
        assert [m["destination"] for m in await stack.provider("/messages")] == [f"+{n}" for n in range(200)]


async def test_sigterm_finishes_what_has_started_and_returns_the_rest(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=0.5)
    ids = [await stack.submit(f"+{n}") for n in range(60)]
    await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] >= 16, 10)
    worker = stack.processes["worker"]
    worker.signal(signal.SIGTERM)
    assert await worker.wait(10) == 0
    assert stack.rows("SELECT count(*) FROM jobs WHERE status = 'processing'") == [(0,)]
    stats = await stack.provider("/stats")
    assert stack.rows("SELECT count(*) FROM jobs WHERE status = 'sent'") == [(stats["accepted"],)]
    await stack.faults(slow=0)
    stack.start("worker2", "consumers", "messages")
    for id_ in ids:
        await stack.becomes(id_, "sent")
    stats = await stack.provider("/stats")
    assert (stats["raw"], stats["unique"]) == (60, 60)


async def test_a_send_that_outlasts_the_grace_is_unknown_and_tried_again(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(
        services, database, broker_namespace, tmp_path, provider={"timeout_seconds": 3}, shutdown_grace_seconds="0.3"
    ) as stack:
        await stack.faults(hang=1)
        id_ = await stack.submit()
        await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] == 1, 10)
        stack.processes["worker"].signal(signal.SIGTERM)
        assert await stack.processes["worker"].wait(10) == 0
        assert stack.rows("SELECT status, reason, attempts FROM jobs") == [("retrying", "shutdown", 1)]
        await stack.faults(hang=0)
        stack.start("worker2", "consumers", "messages")
        await stack.becomes(id_, "sent")


async def test_an_undecodable_message_is_moved_to_the_dead_queue(stack: Stack) -> None:
    path = f"/api/exchanges/%2F/{stack.namespace}.jobs/publish"
    body = {
        "properties": {},
        "routing_key": "messages.sandbox.normal",
        "payload": "not a job",
        "payload_encoding": "string",
    }
    await management(stack.services, "POST", path, body)
    assert (await _dead_letter(stack))["payload"] == "not a job"
    id_ = await stack.submit()
    await stack.becomes(id_, "sent")
