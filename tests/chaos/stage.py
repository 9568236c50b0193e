"""The stage: what a simulated process sees of the world. Each step towards it waits at a gate, until somebody says go."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.rabbitmq.publisher import NotPublished
from jobs.model import LostLease, Route
from jobs.wire import Pointer, encode
from tests.support.factories import SANDBOX

if TYPE_CHECKING:
    from tests.chaos.world import World

QUEUE = SANDBOX.name
DEAD = SANDBOX.dead
FOREVER = 1e9


@dataclass
class Gate:
    """Somewhere a step waits. `lost`: what is raised where its answer gets lost, if it can."""

    process: "Process"
    name: str
    opened: "asyncio.Future[Any]"
    lost: Exception | None = None


@dataclass
class Process:
    """One simulated process; what it has begun never goes on once it is dead."""

    name: str
    alive: bool = True
    held: list["Held"] = field(default_factory=list)  # unacknowledged deliveries


@dataclass
class Held:
    """A delivery in a process' hands."""

    body: bytes
    queue: str
    world: "World"
    process: Process

    async def ack(self) -> None:
        await self.world.gate(self.process, "ack")
        self._settled()

    async def reject(self) -> None:
        await self.world.gate(self.process, "reject")
        if self._settled():
            self.world.queues[DEAD].append(self.body)

    async def nack(self) -> None:
        await self.world.gate(self.process, "nack")
        if self._settled():
            self.world.queues[self.queue].insert(0, self.body)

    def _settled(self) -> bool:
        there = self in self.process.held
        if there:
            self.process.held.remove(self)
        return there


@dataclass
class Send:
    """One request at the provider."""

    key: str
    revision: int
    token: UUID
    process: Process
    refused: bool = False  # the provider said that it has not taken it


class Gated:
    """A part of the world as one process sees it: each call waits before it acts, and again before it answers."""

    def __init__(self, world: "World", process: Process, part: Any, lost: Exception):
        self._world, self._process, self._part, self._lost = world, process, part, lost

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            await self._world.gate(self._process, name)
            result = await self._world.act(getattr(self._part, name), arguments, named)
            await self._world.gate(self._process, f"answer to {name}", self._lost)
            return result

        return call


class Broker:
    """RabbitMQ as one process sees it."""

    def __init__(self, world: "World", process: Process):
        self._world, self._process = world, process
        self.connected = asyncio.Event()
        self.connected.set()

    async def publish(self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None) -> None:
        await self._world.gate(self._process, "publish")
        self._world.queues[queue].append(encode(pointer))
        await self._world.gate(self._process, "confirm", NotPublished("lost"))

    async def ready_messages(self, queue: str) -> int:
        return len(self._world.queues[queue])


@dataclass(frozen=True)
class Leases:
    """The ledger as the reaper sees it: in contact for long."""

    ledger: Gated

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]:
        found: list[LostLease] = await self.ledger.expired_leases(limit, timeout)
        return found

    async def clock(self, timeout: float) -> float:
        return time.monotonic()

    def contact_seconds(self) -> float:
        return FOREVER
