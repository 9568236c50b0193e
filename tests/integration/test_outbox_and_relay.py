"""The outbox and the relay: one relay at a time publishes due rows, in portions."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from consumers.relay import Relay
from infra.postgres import leadership
from infra.postgres.errors import Unavailable
from infra.postgres.leadership import Leadership
from infra.postgres.ledger import Ledger
from infra.postgres.outbox import Due, Outbox
from infra.rabbitmq.publisher import NotPublished
from jobs.model import DEAD_QUEUES, Kind, Route
from jobs.wire import Pointer
from tests.support.factories import message
from tests.support.ledger import ProxiedStore
from tests.support.services import with_port
from tests.support.waiting import eventually

QUEUE = "messages.sandbox.normal"


@dataclass
class Broker:
    """Counts publishes, and may refuse them. Ready messages are published and not yet consumed."""

    connected: asyncio.Event = field(default_factory=asyncio.Event)
    published: list[Pointer] = field(default_factory=list)
    consumed: int = 0
    refusing: bool = False
    stuck: str = ""  # a queue that never confirms

    async def publish(self, route: Route, queue: str, messages: Sequence[Due]) -> Sequence[None]:
        if self.refusing:
            raise NotPublished("injected")
        if queue == self.stuck:
            await asyncio.Event().wait()
        self.published += [due.pointer for due in messages]
        return [None] * len(messages)

    async def ready_messages(self, queue: str) -> int:
        return len(self.published) - self.consumed


async def _yes() -> bool:
    return True


def _relay(outbox: Outbox, broker: Broker, queues: Sequence[str] = (QUEUE,), depth: int = 50) -> Relay:
    return Relay(outbox, broker, _yes, queues=frozenset(queues), ready_depth=depth, poll_seconds=0.01)


async def _due(proxied_store: ProxiedStore, count: int, provider: str = "sandbox") -> None:
    ledger = Ledger(proxied_store.pool, grace_seconds=0)
    await ledger.accept([message(provider=provider) for _ in range(count)], 5)


async def test_a_row_is_left_alone_until_it_is_due(proxied_store: ProxiedStore) -> None:
    await proxied_store.ledger.accept([message()], 5)
    outbox, broker = Outbox(proxied_store.pool), Broker()
    assert await outbox.queues_due(5) == []
    assert await _relay(outbox, broker).round() == 0


async def test_due_rows_are_published_oldest_first_and_deleted(proxied_store: ProxiedStore) -> None:
    for _ in range(5):
        await _due(proxied_store, 1)
    broker = Broker()
    assert await _relay(Outbox(proxied_store.pool), broker).round() == 5
    accepted = [row[0] for row in proxied_store.rows("SELECT id FROM jobs ORDER BY created_at")]
    assert sorted(str(p.id) for p in broker.published) == sorted(map(str, accepted))
    assert proxied_store.rows("SELECT count(*) FROM outbox") == [(0,)]


async def test_queues_are_only_topped_up(proxied_store: ProxiedStore) -> None:
    await _due(proxied_store, 120)
    broker = Broker()
    relay = _relay(Outbox(proxied_store.pool), broker, depth=50)
    assert [await relay.round() for _ in range(2)] == [50, 0]
    broker.consumed = 30
    assert await relay.round() == 30
    assert proxied_store.rows("SELECT count(*) FROM outbox") == [(40,)]


async def test_rows_that_the_broker_refuses_are_due_again_at_once(proxied_store: ProxiedStore) -> None:
    await _due(proxied_store, 3)
    broker = Broker(refusing=True)
    relay = _relay(Outbox(proxied_store.pool), broker)
    assert await relay.round() == 0
    broker.refusing = False
    assert await relay.round() == 3


async def test_a_taken_row_is_left_alone_by_a_second_relay(proxied_store: ProxiedStore) -> None:
    await _due(proxied_store, 10)
    outbox = Outbox(proxied_store.pool)
    first, second = await asyncio.gather(outbox.take(QUEUE, 10, 5), outbox.take(QUEUE, 10, 5))
    pointers = [due.pointer for due in first + second]
    assert len(pointers) == len(set(pointers)) == 10
    assert await outbox.take(QUEUE, 10, 5) == []


async def test_jobs_of_a_removed_provider_wait_and_delay_no_other(proxied_store: ProxiedStore) -> None:
    await _due(proxied_store, 2, provider="gone")
    await _due(proxied_store, 1)
    outbox, broker = Outbox(proxied_store.pool), Broker()
    assert await outbox.queues_due(5) == ["messages.gone.normal", QUEUE]
    assert await _relay(outbox, broker).round() == 1
    assert proxied_store.rows("SELECT count(*) FROM outbox") == [(2,)]


async def test_one_relay_leads_and_another_takes_over_when_its_connection_is_lost(proxied_store: ProxiedStore) -> None:
    _, _, port = proxied_store.database.rpartition(":")
    proxied_url = proxied_store.database.replace(port.split("/")[0], str(proxied_store.proxy.port))
    first, second = Leadership(proxied_url, "relay"), Leadership(proxied_store.database, "relay")
    try:
        assert [await first.held() for _ in range(3)] == [True] * 3
        assert not await second.held()
        proxied_store.proxy.cut()
        await eventually(second.held, bool, 10)
        with pytest.raises(Unavailable):
            await first.held()
        assert not await first.held()
    finally:
        first.close()
        second.close()


async def test_a_queue_that_never_confirms_delays_no_other(proxied_store: ProxiedStore) -> None:
    broker = Broker(stuck="messages.other.normal")
    broker.connected.set()
    relay = _relay(Outbox(proxied_store.pool), broker, [QUEUE, broker.stuck], depth=1000)
    await _due(proxied_store, 3, provider="other")
    running = asyncio.create_task(relay.run())

    async def published() -> int:
        return len(broker.published)

    try:
        for count in (3, 6, 9):  # again and again, and not only in the round in which it stuck
            await _due(proxied_store, 3)
            await eventually(published, lambda published_count, count=count: published_count == count)  # type: ignore[misc]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_copies_of_dead_letters_are_published_however_many_lie_there(proxied_store: ProxiedStore) -> None:
    dead = DEAD_QUEUES[Kind.MESSAGE]
    (accepted,) = await proxied_store.ledger.accept([message()], 5)
    proxied_store.rows(f"UPDATE outbox SET queue = '{dead}', route = 'dead', due_at = now()")
    broker = Broker(consumed=-5000)  # so many lie there
    assert await _relay(Outbox(proxied_store.pool), broker, [dead], depth=50).round() == 1
    assert broker.published == [Pointer(accepted.id, 1)]  # type: ignore[union-attr]


async def test_a_leader_that_is_frozen_for_too_long_loses_its_role(
    proxied_store: ProxiedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "IDLE_SECONDS", 1)
    first = Leadership(with_port(proxied_store.database, proxied_store.proxy.port), "relay")
    second = Leadership(proxied_store.database, "relay")
    try:
        assert await first.held()
        assert not await second.held()
        await proxied_store.proxy.freeze()
        await eventually(second.held, bool, 10)
        await proxied_store.proxy.thaw()
        with pytest.raises(Unavailable):
            await first.held()
        assert not await first.held()
    finally:
        first.close()
        second.close()


async def test_released_leadership_is_free_at_once_and_roles_are_independent(proxied_store: ProxiedStore) -> None:
    first, second, other = (Leadership(proxied_store.database, role) for role in ("relay", "relay", "tidier"))
    try:
        assert [await first.held(), await second.held(), await other.held()] == [True, False, True]
        await first.release()
        assert [await second.held(), await first.held(), await other.held()] == [True, False, True]
    finally:
        for each in (first, second, other):
            each.close()
