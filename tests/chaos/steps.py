"""The environment of one simulated process: every step waits at a gate until the test opens it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.rabbitmq.confirms import Message
from infra.rabbitmq.publisher import NotPublished
from jobs.model import LostLease, Route
from jobs.wire import encode
from tests.support.factories import SANDBOX

if TYPE_CHECKING:
    from tests.chaos.simulation import Simulation

QUEUE = SANDBOX.name
DEAD = SANDBOX.dead
FOREVER = 1e9


@dataclass
class Gate:
    """A point where a step waits. `lost_answer`: the error that stands for a lost answer, if answers can be lost here."""

    process: "Process"
    name: str
    future: "asyncio.Future[Any]"
    lost_answer: Exception | None = None


@dataclass
class Process:
    """One simulated process; a dead one takes no further step."""

    name: str
    alive: bool = True
    unacked: list["UnackedDelivery"] = field(default_factory=list)
    worker_id: int | None = None


@dataclass
class UnackedDelivery:
    """A delivery that a process has not acknowledged."""

    body: bytes
    queue: str
    simulation: "Simulation"
    process: Process

    async def ack(self) -> None:
        await self.simulation.gate(self.process, "ack")
        self._remove()

    async def reject(self) -> None:
        await self.simulation.gate(self.process, "reject")
        if self._remove():
            self.simulation.queues[DEAD].append(self.body)

    async def nack(self) -> None:
        await self.simulation.gate(self.process, "nack")
        if self._remove():
            self.simulation.queues[self.queue].insert(0, self.body)

    def _remove(self) -> bool:
        """False after the process died: the broker has the delivery again."""
        is_unacked = self in self.process.unacked
        if is_unacked:
            self.process.unacked.remove(self)
        return is_unacked


@dataclass
class ProviderRequest:
    """One request at the provider."""

    key: str
    revision: int
    token: UUID
    process: Process
    not_sent: bool = False  # the outcome proves that the provider did not accept it


class SteppedAdapter:
    """An adapter of one process: each call waits before it acts, and again before it answers."""

    def __init__(self, simulation: "Simulation", process: Process, adapter: Any, lost_answer: Exception):
        self._simulation, self._process, self._adapter, self._lost_answer = simulation, process, adapter, lost_answer

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            await self._simulation.gate(self._process, name)
            result = await self._simulation.call(getattr(self._adapter, name), arguments, named)
            await self._simulation.gate(self._process, f"answer to {name}", self._lost_answer)
            return result

        return call


class Broker:
    """RabbitMQ for one process."""

    def __init__(self, simulation: "Simulation", process: Process):
        self._simulation, self._process = simulation, process
        self.connected = asyncio.Event()
        self.connected.set()

    async def publish(self, route: Route, queue: str, messages: Sequence[Message]) -> Sequence[None]:
        await self._simulation.gate(self._process, "publish", NotPublished("the broker rejected the messages"))
        self._simulation.queues[queue] += [encode(message.pointer) for message in messages]
        await self._simulation.gate(self._process, "confirm", NotPublished("the confirm was lost"))
        return [None] * len(messages)

    async def ready_messages(self, queue: str) -> int:
        return len(self._simulation.queues[queue])


@dataclass(frozen=True)
class Leases:
    """The reaper's ledger, with constant contact to Postgres."""

    ledger: SteppedAdapter
    simulation: "Simulation"

    async def expired_leases(self, limit: int, timeout: float) -> list[LostLease]:
        found: list[LostLease] = await self.ledger.expired_leases(limit, timeout)
        return found

    async def orphans(self, limit: int, timeout: float) -> list[LostLease]:
        found: list[LostLease] = await self.ledger.orphans(limit, timeout)
        return found

    async def clock(self, timeout: float) -> float:
        return self.simulation.clock

    def contact_seconds(self) -> float:
        return FOREVER
