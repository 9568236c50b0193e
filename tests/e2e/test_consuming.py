"""A worker whose channel the broker closes consumes again by itself."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tests.support.own_rabbitmq import own_rabbitmq
from tests.support.services import Services, management
from tests.support.stack import Stack, running
from tests.support.waiting import eventually


async def test_connections_closed_by_the_broker_are_made_anew(stack: Stack) -> None:
    await stack.becomes(await stack.submit(), "sent")

    async def ours() -> list[Any]:
        found: Any = await management(stack.services, "GET", "/api/connections")
        return [each for each in found if each.get("peer_port") in stack.proxies["rabbitmq"].ports()]

    connections = await eventually(ours, lambda found: len(found) >= 4, 20)
    for connection in connections:
        await management(
            stack.services, "DELETE", f"/api/connections/{connection['name'].replace(' ', '%20').replace('>', '%3E')}"
        )
    ids = [await stack.submit(f"+{n}") for n in range(20)]
    for id_ in ids:
        await stack.becomes(id_, "sent")
    assert (await stack.provider("/stats"))["raw"] == 21


async def test_a_busy_worker_is_not_bitten(stack: Stack) -> None:
    """A worker with full slots and waiting messages is healthy, even for a watchdog with a short timeout."""
    stack.environment["POSTHASTE_WATCHDOG_SECONDS"] = "0.3"
    described = json.loads(stack.environment["POSTHASTE_PROVIDERS"])
    described["sandbox"]["timeout_seconds"] = 15  # a slow machine adds to the provider's 1.2 s
    stack.environment["POSTHASTE_PROVIDERS"] = json.dumps(described)
    await stack.processes["worker"].kill()
    stack.start("worker", "consumers", "messages")
    await stack.faults(slow=1, slow_seconds=1.2)
    ids = [await stack.submit(f"+{n}") for n in range(40)]
    for id_ in ids:
        await stack.becomes(id_, "sent")
    assert "consumer.stuck" not in stack.processes["worker"].output()
    assert (await stack.provider("/stats"))["raw"] == 40


async def test_publishers_blocked_by_a_memory_alarm_cost_time_and_nothing_else(
    services: Services, database: str, namespace: str, tmp_path: Path
) -> None:
    """The alarm blocks all publishers, so this test has a private RabbitMQ."""
    with own_rabbitmq(tmp_path / "services") as broker:
        own = replace(services, amqp=broker.amqp, management=broker.management)
        async with running(own, database, namespace, tmp_path) as stack:
            await stack.becomes(await stack.submit(), "sent")
            await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0.00001")
            await eventually(lambda: _alarmed(own), bool)
            ids = await asyncio.gather(*(stack.submit(f"+{n}") for n in range(100)))
            assert {await stack.status(id_) for id_ in ids} == {"queued"}
            assert (await stack.get("/health/ready"))[0] == 200
            await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0.4")
            await stack.all_become("sent", 101)
            assert (await stack.provider("/stats"))["raw"] == 101


async def _alarmed(services: Services) -> bool:
    (node,) = cast("list[dict[str, Any]]", await management(services, "GET", "/api/nodes"))
    return bool(node.get("mem_alarm"))  # not there before the first statistics
