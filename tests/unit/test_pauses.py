"""A worker applies the pauses of providers before it consumes."""

import asyncio
from dataclasses import dataclass, field

from consumers.gate import Gate, ProviderPauses
from consumers.slots import Slots
from infra.errors import Transient
from jobs.breaker import Breaker, BreakerPolicy
from tests.support.fakes import FakeSwitch
from tests.support.waiting import until


@dataclass
class Store:
    """Fails twice, then answers."""

    calls: int = 0
    answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def paused(self, timeout: float) -> frozenset[str]:
        self.calls += 1
        if self.calls <= 2:
            raise Transient("no answer")
        await self.answer.wait()
        return frozenset({"a"})


async def test_a_worker_does_not_consume_before_it_has_loaded_the_pauses() -> None:
    gate, store, consuming = Gate("a", ["q"], Slots(1), FakeSwitch(), Breaker(BreakerPolicy())), Store(), asyncio.Event()
    pauses = ProviderPauses(store.paused, {"a": gate})
    open_at_start: list[bool] = []

    async def consume() -> None:
        open_at_start.append(gate.is_open)
        consuming.set()

    tasks = [asyncio.create_task(pauses.then(consume)), asyncio.create_task(pauses.run())]
    await until(lambda: store.calls, lambda calls: calls == 3)
    assert not consuming.is_set()
    store.answer.set()
    await asyncio.wait_for(consuming.wait(), 60)
    assert open_at_start == [True]
    for task in tasks:
        task.cancel()


async def test_a_worker_without_providers_consumes_at_once() -> None:
    pauses, consuming = ProviderPauses(Store().paused, {}), asyncio.Event()

    async def consume() -> None:
        consuming.set()

    await asyncio.gather(pauses.run(), pauses.then(consume))
    assert consuming.is_set()
