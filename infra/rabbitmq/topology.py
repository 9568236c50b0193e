"""Exchanges and queues as values, declared by one function. Logical names are without namespace; names on the broker with.

All queues are durable quorum queues with their arguments set explicitly, so that they behave alike on RabbitMQ 3.10 and 4.x.
Arguments of a queue that exists cannot be changed (406): what may need tuning belongs into a policy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

from jobs.model import DEAD_QUEUES, Route, work_queues

# There is no "unlimited" that both 3.10 and 4.x understand; a low limit kills prefetched jobs on every reconnect.
DELIVERY_LIMIT = 1_000_000

_EXCHANGES = {Route.WORK: "jobs", Route.DEAD: "dead"}


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue, the exchange it is bound to (by its logical name as routing key), and its arguments."""

    logical: str
    name: str
    exchange: str
    arguments: dict[str, str | int] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that one namespace has on the broker."""

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
    """What a user of this namespace may configure, write and read: a regular expression over names on the broker.

    Enough for all we do; dead-lettering asks for it, too: to read the queue and to write the exchange, at its declaration.
    """
    return rf"^{namespace}\..*$"


def describe(namespace: str, providers: Iterable[str]) -> Topology:
    """The topology of a namespace whose messages go to these providers; reports have a queue in any."""
    quorum: dict[str, str | int] = {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
    dead = f"{namespace}.{_EXCHANGES[Route.DEAD]}"
    queues = [QueueSpec(name, f"{namespace}.{name}", dead, dict(quorum)) for name in DEAD_QUEUES.values()]
    for work in work_queues(providers):
        # What a consumer rejects (it cannot be decoded) must reach the dead queue: at-least-once needs reject-publish.
        arguments = quorum | {
            "x-dead-letter-exchange": dead,
            "x-dead-letter-routing-key": work.dead,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        queues.append(QueueSpec(work.name, f"{namespace}.{work.name}", f"{namespace}.{_EXCHANGES[Route.WORK]}", arguments))
    return Topology(namespace, tuple(queues))


async def delete(channel: AbstractChannel, topology: Topology) -> None:
    """Delete everything of a namespace, with all messages in it: for demos and tests, which have namespaces of their own."""
    for spec in topology.queues:
        await channel.queue_delete(spec.name)
    for exchange in topology.exchanges:
        await channel.exchange_delete(exchange)


async def declare(channel: AbstractChannel, topology: Topology) -> None:
    """Declare and bind everything; idempotent. A queue that exists with other arguments closes the channel (406)."""
    exchanges = {name: await channel.declare_exchange(name, ExchangeType.DIRECT, durable=True) for name in topology.exchanges}
    for spec in topology.queues:
        queue = await channel.declare_queue(spec.name, durable=True, arguments=dict(spec.arguments))
        await queue.bind(exchanges[spec.exchange], routing_key=spec.logical)
