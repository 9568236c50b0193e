"""Outcomes of a request at the provider, and how often it may be repeated: the table of docs/lifecycle.md on real processes."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

# Fault of the provider → status of an at_most_once message after its attempt, and the attempt's reason.
MAYBE_SENT = [
    ({"hang": 1}, "timeout"),
    ({"reset": 1}, "connection_lost"),
    ({"fail": 1, "fail_status": 502}, "http_502"),
    ({"fail": 1, "fail_status": 503}, "http_503"),
    ({"fail": 1, "fail_status": 408}, "http_408"),
]
SURELY_NOT_SENT = [
    ({"fail": 1, "fail_status": 503, "retry_after": 1}, "http_503"),
    ({"fail": 1, "fail_status": 429, "retry_after": 1}, "http_429"),
]


async def _attempts(stack: Stack, id_: str) -> list[dict[str, Any]]:
    code, answer = await stack.get(f"/messages/{id_}/attempts")
    assert code == 200
    return list(answer["data"])


async def test_at_most_once_is_never_sent_twice_where_it_may_have_been_sent(stack: Stack) -> None:
    for sent, (faults, reason) in enumerate(MAYBE_SENT, 1):
        await stack.faults(**{"hang": 0, "reset": 0, "fail": 0, **faults})
        id_ = await stack.submit(delivery="at_most_once")
        await stack.becomes(id_, "unknown")
        record = await stack.record(id_)
        assert (record["reason"], record["delivery"], record["attempts"]) == (reason, "at_most_once", 1)
        assert (await stack.provider("/stats"))["raw"] == sent
    await stack.faults(hang=0, reset=0, fail=0)
    assert (await stack.provider("/stats"))["raw"] == len(MAYBE_SENT)


async def _refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def test_at_most_once_is_retried_if_the_message_was_provably_not_sent(stack: Stack) -> None:
    await stack.faults(refuse_seconds=2)
    await eventually(lambda: _refused(stack.sandbox_port), bool)
    id_ = await stack.submit(delivery="at_most_once")
    await stack.becomes(id_, "sent")
    attempts = await _attempts(stack, id_)
    assert {(each["reason"], each["charged"]) for each in attempts} == {("no_connection", False), (None, True)}
    for faults, reason in SURELY_NOT_SENT:
        await stack.faults(**faults)
        id_ = await stack.submit(delivery="at_most_once")
        await eventually(lambda id_=id_: _attempts(stack, id_), bool)  # type: ignore[misc]
        await stack.faults(fail=0, retry_after=0)
        await stack.becomes(id_, "sent")
        first, *_, last = await _attempts(stack, id_)
        assert (first["outcome"], first["reason"], first["charged"]) == ("deferred", reason, False)
        assert last["outcome"] == "accepted"
    stats = await stack.provider("/stats")
    assert stats["accepted"] == stats["unique"] == len(SURELY_NOT_SENT) + 1


async def test_a_message_without_a_connection_shows_why_it_waits_and_until_when(stack: Stack) -> None:
    await stack.faults(refuse_seconds=3)
    await eventually(lambda: _refused(stack.sandbox_port), bool)
    id_ = await stack.submit()
    record = await eventually(lambda: stack.record(id_), lambda record: record["next_attempt_at"] is not None)
    assert (record["status"], record["reason"], record["attempts"]) == ("queued", "no_connection", 0)
    await stack.becomes(id_, "sent")
    record = await stack.record(id_)
    assert (record["reason"], record["attempts"], record["next_attempt_at"]) == (None, 1, None)
    assert record["provider_message_id"].startswith("sandbox-")


async def test_a_worker_that_dies_in_mid_send_leaves_at_most_once_unknown(stack_with_short_leases: Stack) -> None:
    stack = stack_with_short_leases
    await stack.faults(hang=1)
    id_ = await stack.submit(delivery="at_most_once")
    await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] == 1, 10)
    await stack.processes["worker"].kill()
    await stack.faults(hang=0)
    stack.start("worker2", "consumers", "messages")
    await stack.becomes(id_, "unknown", seconds=30)
    assert (await stack.record(id_))["reason"] == "lease_lost"
    assert (await stack.provider("/stats"))["raw"] == 1


async def test_a_provider_that_sends_retry_after_defers_uncharged(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    provider = {"retry": {"attempts": 2, "base_seconds": 0.05, "cap_seconds": 0.1}}
    async with running(services, database, broker_namespace, tmp_path, provider=provider) as stack:
        await stack.faults(fail=1, fail_status=429, retry_after=1)
        id_ = await stack.submit()
        waits = await eventually(lambda: _attempts(stack, id_), lambda attempts: len(attempts) >= 2, 20)
        assert {(each["outcome"], each["provider_code"], each["charged"]) for each in waits} == {("deferred", 429, False)}
        assert await stack.status(id_) in ("queued", "processing")
        await stack.faults(fail=0)
        await stack.becomes(id_, "sent")
        assert (await stack.record(id_))["attempts"] == 1


async def test_patience_ends_with_the_deadline(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    provider = {"retry": {"deadline_seconds": 1.5}}
    async with running(services, database, broker_namespace, tmp_path, provider=provider) as stack:
        await stack.faults(fail=1, fail_status=429, retry_after=1)
        id_ = await stack.submit()
        await stack.becomes(id_, "failed")
        assert (await stack.record(id_))["reason"] == "deadline_exceeded"


async def test_each_provider_has_a_policy_of_its_own(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path) as stack:
        described = json.loads(stack.environment["POSTHASTE_PROVIDERS"])
        described["other"] = {**described["sandbox"], "retry": {"attempts": 1}}
        stack.environment |= {"POSTHASTE_PROVIDERS": json.dumps(described), "POSTHASTE_DEFAULT_PROVIDER": "sandbox"}
        for name, command in (("api", ["api"]), ("worker", ["consumers", "messages"])):
            await stack.processes[name].kill()
            stack.start(name, *command)
        await stack.until_ready()
        await stack.faults(fail=1)
        once, often = await stack.submit(provider="other"), await stack.submit()
        await stack.becomes(once, "failed")
        assert (await stack.record(once))["attempts"] == 1
        await stack.faults(fail=0)
        await stack.becomes(often, "sent")


async def test_a_message_that_kills_its_workers_is_counted_out_and_its_neighbours_are_sent(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    """One message kills its worker each time; the worker's other messages must not be blamed."""
    provider = {"retry": {"attempts": 8, "base_seconds": 0.05, "cap_seconds": 0.1}}
    async with running(services, database, broker_namespace, tmp_path, provider=provider, lease_seconds="2.5") as stack:
        await stack.faults(slow=1, slow_seconds=0.3)

        def kill(entry: dict[str, Any]) -> None:
            if entry["destination"] == "poison":
                stack.processes["worker"].signal(signal.SIGKILL)

        stack.sandbox.on_request = kill
        poison = await stack.submit("poison")
        neighbours = [await stack.submit(f"+{n}") for n in range(30)]
        for _ in range(3):
            await stack.processes["worker"].wait(60)
            stack.start("worker", "consumers", "messages")
        await stack.becomes(poison, "failed", seconds=30)
        assert (await stack.record(poison))["reason"] == "worker_lost"
        for id_ in neighbours:
            await stack.becomes(id_, "sent", seconds=30)


@pytest.mark.parametrize("path", ["/messages/{}/attempts", "/api/2.0/report/jobs/{}/attempts"])
@pytest.mark.reuses_stack
async def test_a_message_that_does_not_exist_has_no_attempts(stack: Stack, path: str) -> None:
    for id_ in ("01a1ff6c-bcef-7503-afba-6071d2a10df9", "x"):
        assert (await stack.get(path.format(id_)))[0] == 404
    id_ = (await stack.post())[1]["id"]
    assert (await stack.get(path.format(id_)))[0] == (200 if "messages" in path else 404)
