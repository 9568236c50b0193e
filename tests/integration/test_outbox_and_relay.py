"""The outbox and the relay: what is due and still there is published, by one relay at a time, in portions."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from consumers.relay import Relay
from infra.postgres import leadership
from infra.postgres.errors import Unavailable
from infra.postgres.leadership import Leadership
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Outbox
from infra.rabbitmq.publisher import NotPublished
from jobs.model import DEAD_QUEUES, Kind, Route
from jobs.wire import Pointer
from tests.integration.conftest import Hurt
from tests.support.factories import message
from tests.support.services import with_port
from tests.support.waiting import eventually

QUEUE = "messages.sandbox.normal"


@dataclass
class Broker:
    """Counts what is published to it; can be told to refuse. Ready messages are those published and not yet consumed."""

    connected: asyncio.Event = field(default_factory=asyncio.Event)
    published: list[Pointer] = field(default_factory=list)
    consumed: int = 0
    refusing: bool = False
    stuck: str = ""  # a queue that never confirms

    async def publish(self, pointer: Pointer, route: Route, queue: str, headers: dict[str, str | int] | None = None) -> None:
        if self.refusing:
            raise NotPublished("as asked")
        if queue == self.stuck:
            await asyncio.Event().wait()
        self.published.append(pointer)

    async def ready_messages(self, queue: str) -> int:
        return len(self.published) - self.consumed


async def _yes() -> bool:
    return True


def _relay(outbox: Outbox, broker: Broker, queues: Sequence[str] = (QUEUE,), depth: int = 50) -> Relay:
    return Relay(outbox, broker, _yes, queues=frozenset(queues), ready_depth=depth, poll_seconds=0.01)


async def _due(hurt: Hurt, count: int, provider: str = "sandbox") -> None:
    ledger = Ledger(hurt.pool, grace_seconds=0)
    await ledger.accept([message(provider=provider) for _ in range(count)], 5)


async def test_a_row_is_left_alone_until_it_is_due(hurt: Hurt) -> None:
    await hurt.ledger.accept([message()], 5)
    outbox, broker = Outbox(hurt.pool), Broker()
    assert await outbox.queues_due(5) == []
    assert await _relay(outbox, broker).round() == 0


async def test_what_is_due_is_published_oldest_first_and_forgotten(hurt: Hurt) -> None:
    for _ in range(5):
        await _due(hurt, 1)
    broker = Broker()
    assert await _relay(Outbox(hurt.pool), broker).round() == 5
    accepted = [row[0] for row in hurt.rows("SELECT id FROM jobs ORDER BY created_at")]
    assert sorted(str(p.id) for p in broker.published) == sorted(map(str, accepted))
    assert hurt.rows("SELECT count(*) FROM outbox") == [(0,)]


async def test_queues_are_only_topped_up(hurt: Hurt) -> None:
    await _due(hurt, 120)
    broker = Broker()
    relay = _relay(Outbox(hurt.pool), broker, depth=50)
    assert [await relay.round() for _ in range(2)] == [50, 0]
    broker.consumed = 30
    assert await relay.round() == 30
    assert hurt.rows("SELECT count(*) FROM outbox") == [(40,)]


async def test_what_the_broker_refuses_is_due_again_at_once(hurt: Hurt) -> None:
    await _due(hurt, 3)
    broker = Broker(refusing=True)
    relay = _relay(Outbox(hurt.pool), broker)
    assert await relay.round() == 0
    broker.refusing = False
    assert await relay.round() == 3


async def test_a_taken_row_is_left_alone_by_a_second_relay(hurt: Hurt) -> None:
    await _due(hurt, 10)
    outbox = Outbox(hurt.pool)
    first, second = await asyncio.gather(outbox.take(QUEUE, 10, 5), outbox.take(QUEUE, 10, 5))
    taken = [due.pointer for due in first + second]
    assert len(taken) == len(set(taken)) == 10
    assert await outbox.take(QUEUE, 10, 5) == []


async def test_jobs_of_a_provider_that_is_gone_wait_and_hold_nobody_up(hurt: Hurt) -> None:
    await _due(hurt, 2, provider="gone")
    await _due(hurt, 1)
    outbox, broker = Outbox(hurt.pool), Broker()
    assert await outbox.queues_due(5) == ["messages.gone.normal", QUEUE]
    assert await _relay(outbox, broker).round() == 1
    assert hurt.rows("SELECT count(*) FROM outbox") == [(2,)]


async def test_one_relay_leads_and_another_takes_over_when_its_connection_is_lost(hurt: Hurt) -> None:
    _, _, port = hurt.database.rpartition(":")
    proxied_url = hurt.database.replace(port.split("/")[0], str(hurt.proxy.port))
    first, second = Leadership(proxied_url, "relay"), Leadership(hurt.database, "relay")
    try:
        assert [await first.held() for _ in range(3)] == [True] * 3
        assert not await second.held()
        hurt.proxy.cut()
        await eventually(second.held, bool, 10)
        with pytest.raises(Unavailable):
            await first.held()
        assert not await first.held()
    finally:
        first.close()
        second.close()


async def test_a_queue_that_never_confirms_delays_no_other(hurt: Hurt) -> None:
    broker = Broker(stuck="messages.other.normal")
    broker.connected.set()
    relay = _relay(Outbox(hurt.pool), broker, [QUEUE, broker.stuck], depth=1000)
    await _due(hurt, 3, provider="other")
    running = asyncio.create_task(relay.run())

    async def published() -> int:
        return len(broker.published)

    try:
        for count in (3, 6, 9):  # again and again, and not only in the round in which it stuck
            await _due(hurt, 3)
            await eventually(published, lambda seen, count=count: seen == count)  # type: ignore[misc]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_copies_of_dead_letters_are_published_however_many_lie_there(hurt: Hurt) -> None:
    dead = DEAD_QUEUES[Kind.MESSAGE]
    (accepted,) = await hurt.ledger.accept([message()], 5)
    hurt.rows(f"UPDATE outbox SET queue = '{dead}', route = 'dead', due_at = now()")
    broker = Broker(consumed=-5000)  # so many lie there
    assert await _relay(Outbox(hurt.pool), broker, [dead], depth=50).round() == 1
    assert broker.published == [Pointer(accepted.id, 1)]  # type: ignore[union-attr]


async def test_a_leader_that_is_frozen_for_too_long_loses_its_role(hurt: Hurt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "IDLE_SECONDS", 1)
    first = Leadership(with_port(hurt.database, hurt.proxy.port), "relay")
    second = Leadership(hurt.database, "relay")
    try:
        assert await first.held()
        assert not await second.held()
        await hurt.proxy.freeze()
        await eventually(second.held, bool, 10)
        await hurt.proxy.thaw()
        with pytest.raises(Unavailable):
            await first.held()
        assert not await first.held()
    finally:
        first.close()
        second.close()


async def test_a_role_that_was_given_up_is_free_at_once_and_other_roles_are_apart(hurt: Hurt) -> None:
    first, second, other = (Leadership(hurt.database, role) for role in ("relay", "relay", "tidier"))
    try:
        assert [await first.held(), await second.held(), await other.held()] == [True, False, True]
        await first.release()
        assert [await second.held(), await first.held(), await other.held()] == [True, False, True]
    finally:
        for each in (first, second, other):
            each.close()
