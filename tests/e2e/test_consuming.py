"""A worker that is cut off by the broker itself comes back by itself."""

from typing import Any

from tests.e2e.stack import Stack
from tests.services import management
from tests.waiting import eventually


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
    """All slots taken and messages waiting: healthy, however short the watchdog's patience."""
    stack.environment["POSTHASTE_WATCHDOG_SECONDS"] = "0.3"
    await stack.processes["worker"].kill()
    stack.start("worker", "consumers", "messages")
    await stack.faults(slow=1, slow_seconds=1.2)
    ids = [await stack.submit(f"+{n}") for n in range(40)]
    for id_ in ids:
        await stack.becomes(id_, "sent")
    assert "consumer.stuck" not in stack.processes["worker"].said()
    assert (await stack.provider("/stats"))["raw"] == 40
