"""Operator events on real processes and a real receiver: each once, and its end once, through crashes and restarts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.receiver import CALLBACKS_ON, Receiver, receiving
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import until

SETTINGS: dict[str, Any] = {**CALLBACKS_ON, "callback_retry_seconds": "[0.2, 0.2, 0.2]"}


@pytest.fixture
async def operator() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


@pytest.fixture
async def stack(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, operator: Receiver
) -> AsyncIterator[Stack]:
    settings = {**SETTINGS, "operator_url": f"{operator.url}/operator", "operator_dead_letters": "2"}
    provider = {"breaker": {"failures": 2, "open_seconds": 0.5, "cap_seconds": 0.5}}
    async with running(
        services, database, broker_namespace, tmp_path, provider=provider, operator_age_seconds="4", **settings
    ) as started:
        started.start("callbacks", "consumers", "callbacks")
        yield started


def _types(operator: Receiver) -> list[str]:
    return [received.verified()["type"] for received in operator.received]


async def _until(operator: Receiver, *types: str) -> None:
    """Wait until exactly these events have arrived, in any order."""
    await until(lambda: sorted(_types(operator)), lambda seen: seen == sorted(types))


async def test_a_lost_relay_and_many_dead_letters_are_reported_once_each(stack: Stack, operator: Receiver) -> None:
    await stack.faults(fail=1, fail_status=400)
    for _ in range(3):
        await stack.becomes(await stack.submit(), "failed")
    await _until(operator, "dead_letters.high")
    await stack.processes["relay"].kill()
    operator.answers.append(503)  # no relay publishes the next attempt
    lost = ["dead_letters.high", "relay.lost", "relay.lost"]
    await _until(operator, *lost)
    stack.start("relay2", "consumers", "relay")  # it repeats nothing
    await _until(operator, *lost, "relay.back")
    assert (await stack.command("dead-letters", "discard", "--yes")).returncode == 0
    await _until(operator, *lost, "relay.back", "dead_letters.normal")
    data = {event["type"]: event["data"] for event in (received.verified() for received in operator.received)}
    assert data["dead_letters.high"]["count"] >= 2 and data["dead_letters.high"]["kind"] == "message"
    assert {each["namespace"] for each in data.values()} == {stack.namespace}
    for begin, end in (("dead_letters.high", "dead_letters.normal"), ("relay.lost", "relay.back")):
        assert data[begin]["began_at"] == data[end]["began_at"]
    assert stack.rows("SELECT * FROM operator_conditions") == []


async def test_a_breaker_of_two_workers_and_an_old_queue_are_reported_once_each(stack: Stack, operator: Receiver) -> None:
    stack.start("worker2", "consumers", "messages")
    await stack.faults(reset=1)
    ids = [await stack.submit(f"+{n}") for n in range(40)]
    await stack.processes["worker"].until_logged("state=open")
    await stack.processes["worker2"].until_logged("state=open")
    await until(lambda: _types(operator), lambda seen: {"breaker.opened", "age.high"} <= set(seen))
    await stack.faults(reset=0)
    for id_ in ids:
        await stack.becomes(id_, "sent")
    await _until(operator, "breaker.opened", "age.high", "breaker.closed", "age.normal")
    events = [received.verified()["data"] for received in operator.received]
    assert [event["provider"] for event in events if "provider" in event] == ["sandbox"] * 2
    assert [event["queue"] for event in events if "queue" in event] == ["messages.sandbox.normal"] * 2
