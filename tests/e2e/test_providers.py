"""Providers fail alone: a hanging one delays no other, a paused one gets nothing, a removed one is replaced."""

import json
import statistics
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli.sandbox import Faults, Sandbox
from dev.stack import local_sandbox, serving
from tests.support.receiver import receiving
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

BREAKER = {"failures": 3, "open_seconds": 0.5, "cap_seconds": 1}


@pytest.fixture
async def two(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[tuple[Stack, Sandbox]]:
    """A stack with the providers `sandbox` and `other` and fast breakers."""
    other = local_sandbox()
    async with serving(other):
        described = {
            "url": f"http://127.0.0.1:{other.port}/message",
            "timeout_seconds": 1,
            "breaker": BREAKER,
            "concurrency": 16,
        }
        async with running(
            services,
            database,
            broker_namespace,
            tmp_path,
            provider={"breaker": BREAKER, "timeout_seconds": 1},
            others={"other": described},
            default_provider="sandbox",
        ) as stack:
            yield stack, other


async def _p50_seconds(stack: Stack, ids: list[str]) -> float:
    records = [await stack.record(id_) for id_ in ids]
    times = [datetime.fromisoformat(r["finished_at"]) - datetime.fromisoformat(r["created_at"]) for r in records]
    return statistics.median(time.total_seconds() for time in times)


async def test_a_provider_that_hangs_keeps_its_own_messages_waiting_and_no_others(two: tuple[Stack, Sandbox]) -> None:
    stack, other = two
    calm = [await stack.submit(f"+{n}") for n in range(60)]
    for id_ in calm:
        await stack.becomes(id_, "sent")
    other.faults = Faults(hang=1)
    waiting = [await stack.submit(f"+{n}", provider="other") for n in range(60)]
    await stack.processes["worker"].until_logged("provider.gate")
    quick = [await stack.submit(f"+{n}") for n in range(60)]
    for id_ in quick:
        await stack.becomes(id_, "sent")
    assert await _p50_seconds(stack, quick) < await _p50_seconds(stack, calm) + 0.9  # one that hangs takes a second
    # It opens, tries one now and then, and opens again: a handful of attempts for all sixty.
    await stack.processes["worker"].until_logged("state=half-open", 2)
    assert other.raw <= 16 + 20
    other.faults = Faults()
    for id_ in waiting:
        await stack.becomes(id_, "sent")
    attempts = [(await stack.record(id_))["attempts"] for id_ in waiting]
    assert sum(attempts) - len(waiting) <= 16 + 20
    assert statistics.median(attempts) <= 2


async def test_a_paused_provider_gets_nothing_until_it_is_resumed(two: tuple[Stack, Sandbox]) -> None:
    stack, other = two
    assert (await stack.command("providers", "pause", "other")).returncode == 0
    assert (await stack.processes["worker"].until_logged("state=open")).count("state=open") == 1
    waiting = [await stack.submit(f"+{n}", provider="other") for n in range(5)]
    await stack.becomes(await stack.submit(), "sent")
    assert other.raw == 0
    listed = (await stack.command("providers", "list")).stdout
    row = next(line for line in listed.splitlines() if "other" in line)
    assert "5" in row and "20" in row.split("│")[-2]
    doctor = json.loads((await stack.command("doctor", "--json")).stdout)
    paused = [f for f in doctor["findings"] if "paused" in f["detail"]]
    assert [(f["subject"], f["verdict"]) for f in paused] == [("provider other", "ok")]
    assert "by an operator; resume with `posthaste providers resume other`" in paused[0]["detail"]
    assert not [f for f in doctor["findings"] if f["verdict"] == "wrong" and "messages.other" in f["detail"]]
    assert "was already paused" in (await stack.command("providers", "pause", "other")).stdout
    await stack.processes["worker"].kill()
    stack.start("worker", "consumers", "messages")
    assert (await stack.processes["worker"].until_logged("state=open", 2)).count("state=open") == 2
    assert other.raw == 0
    resumed = await stack.command("providers", "resume", "other")
    assert (resumed.returncode, resumed.stdout) == (0, "other is resumed\n")
    for id_ in waiting:
        await stack.becomes(id_, "sent")
    again = await stack.command("providers", "resume", "other")
    assert (again.returncode, again.stdout) == (0, "other is not paused; nothing changed\n")
    unknown_resume = await stack.command("providers", "resume", "nobody")
    assert unknown_resume.returncode == 2 and "'nobody' is not configured" in unknown_resume.stderr
    unknown = await stack.command("providers", "pause", "nobody")
    assert unknown.returncode == 2 and "sandbox" in unknown.stderr


async def test_messages_waiting_for_a_removed_provider_are_moved_to_another(two: tuple[Stack, Sandbox]) -> None:
    stack, other = two
    await stack.processes["worker"].kill()
    ids = [await stack.submit(f"+{n}", provider="other", priority=["normal", "high"][n % 2]) for n in range(6)]
    described = json.loads(stack.environment["POSTHASTE_PROVIDERS"])
    del described["other"]
    stack.environment["POSTHASTE_PROVIDERS"] = json.dumps(described)
    stack.start("worker", "consumers", "messages")
    moved = await stack.command("providers", "move", "other", "--provider", "sandbox")
    assert (moved.returncode, "6 messages moved" in moved.stdout) == (0, True), moved.stderr
    for id_ in ids:
        await stack.becomes(id_, "sent")
    assert other.raw == 0 and (await stack.provider("/stats"))["raw"] == 6
    assert (await stack.command("providers", "move", "other", "--provider", "nobody")).returncode == 2


async def test_a_provider_gets_its_credentials_and_names_the_message(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"sid": 411})

    token = tmp_path / "token"
    token.write_text("s3cret\n")
    async with receiving(answers=[answer]) as receiver:
        provider = {"url": f"{receiver.url}/send", "auth": {"bearer": {"file": str(token)}}, "message_id_field": "sid"}
        async with running(services, database, broker_namespace, tmp_path, provider=provider) as stack:
            id_ = await stack.submit()
            await stack.becomes(id_, "sent")
            record = await stack.record(id_)
            assert not any("s3cret" in process.output() for process in stack.processes.values())
        (received,) = receiver.received
    assert (received.path, received.headers["authorization"]) == ("/send", "Bearer s3cret")
    assert (received.headers["idempotency-key"], record["provider_message_id"]) == (id_, "411")


async def test_a_message_whose_worker_died_is_retried_by_its_providers_own_policy(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    """The provider's delay is up to 22 hours; that of the default policy is less than a second."""
    retry = {"attempts": 8, "base_seconds": 80_000, "cap_seconds": 80_000, "deadline_seconds": 31_536_000}
    settings: dict[str, Any] = {"provider": {"retry": retry}, "lease_seconds": "2.5"}
    async with running(services, database, broker_namespace, tmp_path, **settings) as stack:
        stack.sandbox.faults = Faults(hang=1)
        id_ = await stack.submit()

        async def request_count() -> int:
            return stack.sandbox.raw

        await eventually(request_count, lambda raw: raw == 1)
        await stack.processes["worker"].kill()
        stack.start("worker", "consumers", "messages")
        await stack.becomes(id_, "retrying")
        ((delay,),) = stack.rows("SELECT extract(epoch FROM due_at - updated_at) FROM jobs")
        assert float(str(delay)) > 2
