"""Exchanges and queues as values, declared by one function. Logical names have no namespace; names on the broker have one.

All queues are durable quorum queues with explicit arguments, so that they behave alike on RabbitMQ 3.10 and 4.x. The arguments
of an existing queue cannot be changed (406). Tunable values belong into a policy.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

from jobs.model import DEAD_QUEUES, Route, work_queues

# RabbitMQ 3.10 and 4.x share no value for "unlimited". A low limit dead-letters prefetched jobs after reconnects.
DELIVERY_LIMIT = 1_000_000

_EXCHANGES = {Route.WORK: "jobs", Route.DEAD: "dead"}


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue, its exchange and its arguments. The routing key is the logical name."""

    logical: str
    name: str
    exchange: str
    arguments: dict[str, str | int] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Topology:
    """The queues and exchanges of one namespace."""

    namespace: str
    queues: tuple[QueueSpec, ...]

    def exchange(self, route: Route) -> str:
        return f"{self.namespace}.{_EXCHANGES[route]}"

    @property
    def exchanges(self) -> tuple[str, ...]:
        return tuple(self.exchange(route) for route in _EXCHANGES)

    def name(self, logical: str) -> str:
        return f"{self.namespace}.{logical}"


def permission(namespace: str) -> str:
    """The permissions (configure, write, read) of a namespace's user: a regular expression over names on the broker.

    The declaration of a dead-letter exchange requires them, too: read on the queue and write on the exchange.
    """
    return rf"^{namespace}\..*$"


def describe(namespace: str, providers: Iterable[str]) -> Topology:
    """The topology of a namespace with these providers. Reports and callbacks always have a queue."""
    quorum: dict[str, str | int] = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    work, dead = (f"{namespace}.{_EXCHANGES[route]}" for route in (Route.WORK, Route.DEAD))
    queues = [QueueSpec(name, f"{namespace}.{name}", dead, dict(quorum)) for name in DEAD_QUEUES.values()]
    for queue in work_queues(providers):
        # A rejected (undecodable) message must reach the dead queue. The strategy at-least-once requires reject-publish.
        arguments = quorum | {
            "x-dead-letter-exchange": dead,
            "x-dead-letter-routing-key": queue.dead,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        queues.append(QueueSpec(queue.name, f"{namespace}.{queue.name}", work, arguments))
    return Topology(namespace, tuple(queues))


async def delete(channel: AbstractChannel, topology: Topology) -> None:
    """Delete all queues and exchanges of a namespace, with their messages. Only demos and tests call it."""
    for spec in topology.queues:
        await channel.queue_delete(spec.name)
    for exchange in topology.exchanges:
        await channel.exchange_delete(exchange)


async def declare(channel: AbstractChannel, topology: Topology) -> None:
    """Declare and bind all queues; idempotent. An existing queue with other arguments closes the channel (406)."""
    exchanges = {name: await channel.declare_exchange(name, ExchangeType.DIRECT, durable=True) for name in topology.exchanges}
    for spec in topology.queues:
        queue = await channel.declare_queue(spec.name, durable=True, arguments=dict(spec.arguments))
        await queue.bind(exchanges[spec.exchange], routing_key=spec.logical)


def definitions(topology: Topology) -> dict[str, list[dict[str, object]]]:
    """The topology in the shape of RabbitMQ's `GET /api/definitions`, for operators that prepare a broker by import.

    `make definitions` writes the file. No process reads it: each process declares the same topology itself.
    """
    durable = {"vhost": "/", "durable": True, "auto_delete": False}
    exchange = {**durable, "type": "direct", "internal": False, "arguments": {}}
    binding = {"vhost": "/", "destination_type": "queue", "arguments": {}}
    return {
        "exchanges": [{"name": name, **exchange} for name in topology.exchanges],
        "queues": [{"name": spec.name, **durable, "arguments": dict(spec.arguments)} for spec in topology.queues],
        "bindings": [
            {"source": spec.exchange, "destination": spec.name, "routing_key": spec.logical, **binding}
            for spec in topology.queues
        ],
    }


if __name__ == "__main__":
    json.dump(definitions(describe("posthaste", ["sandbox"])), sys.stdout, indent=2)
    sys.stdout.write("\n")
