"""Inspection of the broker without changes: the state of each queue of a topology."""

from dataclasses import dataclass

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelClosed

from infra.rabbitmq.connection import connected
from infra.rabbitmq.topology import QueueSpec, Topology

_CALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue on the broker. `problem`: None, `missing`, or the broker's error for a mismatch."""

    logical: str
    name: str
    ready: int = 0
    consumers: int = 0
    problem: str | None = None


async def inspect(url: str, topology: Topology) -> list[QueueState]:
    """The state of every queue of a topology. Raises BrokerDown."""
    async with connected(url, "inspection") as connection:
        return [await _state(connection, spec) for spec in topology.queues]


async def answers(url: str) -> None:
    """Return if RabbitMQ accepts a connection. Raises BrokerDown."""
    async with connected(url, "inspection"):
        pass


async def _state(connection: AbstractConnection, spec: QueueSpec) -> QueueState:
    """Declare passively first, so that nothing is created, then with arguments, which reveals a mismatch."""
    try:
        # A channel for each queue: the broker closes the channel on a mismatch.
        channel = await connection.channel()
        declared = await channel.declare_queue(spec.name, passive=True, timeout=_CALL_SECONDS)
        counts = declared.declaration_result
        await channel.declare_queue(spec.name, durable=True, arguments=dict(spec.arguments), timeout=_CALL_SECONDS)
        await channel.close()
    except ChannelClosed as error:
        text = str(error)
        return QueueState(spec.logical, spec.name, problem="missing" if "NOT_FOUND" in text else text)
    return QueueState(spec.logical, spec.name, counts.message_count or 0, counts.consumer_count or 0)
