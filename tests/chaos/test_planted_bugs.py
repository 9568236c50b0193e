"""Each planted bug is found, and the message names the invariant that it breaks."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from jobs.model import Delivery
from jobs.outcome import Outcome, Verdict
from tests.chaos.actors import LEASE_SECONDS
from tests.chaos.interleavings import Interleavings, explore
from tests.chaos.parts import InMemory, Parts, Real, RealServers
from tests.chaos.planted import BUGS
from tests.chaos.stage import QUEUE
from tests.chaos.world import Violation, World
from tests.support.services import Services

REJECTED = Outcome(Verdict.REJECTED, "http_400", 400)
RETRYABLE = Outcome(Verdict.RETRYABLE, "http_500", 500)


def _named(bug: str) -> str:
    return "|".join(re.escape(invariant) for invariant in BUGS[bug].breaks)


# Where the fence is in a statement or a script of the real servers, the few steps that need it, one by one.


async def _go_on(world: World, worker: int, answer: Outcome | None = None, *, but: str = "", rounds: int = 12) -> None:
    """Everything but the gates called `but` goes on; one worker takes what there is."""
    for _ in range(rounds):
        for gate in [gate for gate in world.gates if gate.name != but]:
            if gate in world.gates:
                world.open(gate, answer if gate.name == "provider" else None)
        await world.settle()
        world.deliver(world.workers[worker], 1)
        await world.settle()
        await world.look()


async def a_late_copy(world: World) -> None:
    await world.accept(0, 1, Delivery.AT_LEAST_ONCE)
    while not world.queues[QUEUE]:
        world.open(world.gates[0])
        await world.settle()
    copy = world.queues[QUEUE][0]
    await _go_on(world, 0, RETRYABLE, rounds=6)
    world.queues[QUEUE] = [copy]
    await _go_on(world, 1)


async def a_reaper_while_the_provider_is_slow(world: World) -> None:
    await world.accept(0, 1, Delivery.AT_LEAST_ONCE)
    await _go_on(world, 0, but="provider")
    world.spawn(world.workers[1].process, world.workers[1].reaper.reap())
    await _go_on(world, 1, but="provider")
    await _go_on(world, 1)


async def a_write_that_was_slow(world: World) -> None:
    await world.accept(0, 1, Delivery.AT_LEAST_ONCE)
    while not (slow := [gate for gate in world.gates if gate.name == "write"]):
        world.open(world.gates[0])
        await world.settle()
    world.gates.remove(slow[0])
    await _go_on(world, 0)
    world.gates.append(slow[0])
    await _go_on(world, 0)


async def a_click_on_an_old_page(world: World) -> None:
    await world.accept(0, 1, Delivery.AT_LEAST_ONCE)
    await _go_on(world, 0, REJECTED)
    page = await world.parts.letters()
    assert len(page) == 1
    await world.requeue(page)
    world.pass_time(1)
    world.spawn(world.relays[0].process, world.relays[0].relay.round())
    await _go_on(world, 0, REJECTED)
    await world.requeue(page)
    await world.look()


async def an_outcome_after_the_next_claim(world: World) -> None:
    await world.accept(0, 1, Delivery.AT_LEAST_ONCE)
    await _go_on(world, 0, but="provider")
    (slow,) = [gate for gate in world.gates if gate.name == "provider"]
    world.gates.remove(slow)
    world.pass_time(LEASE_SECONDS + 1)
    world.spawn(world.workers[1].process, world.workers[1].reaper.reap())
    await _go_on(world, 1, but="provider")
    world.pass_time(1)
    world.spawn(world.relays[0].process, world.relays[0].relay.round())
    await _go_on(world, 1, but="provider")
    world.gates.append(slow)
    world.open(slow)
    await _go_on(world, 1, but="provider")


async def an_answer_after_the_lease(world: World) -> None:
    await world.accept(0, 1, Delivery.AT_MOST_ONCE, callback_url="https://receiver.example")
    await _go_on(world, 0, but="provider")
    (slow,) = [gate for gate in world.gates if gate.name == "provider"]
    world.gates.remove(slow)
    world.pass_time(LEASE_SECONDS + 1)
    world.spawn(world.workers[1].process, world.workers[1].reaper.reap())
    await _go_on(world, 1)
    world.gates.append(slow)
    world.open(slow)
    await _go_on(world, 1)


SCRIPTS: dict[str, Callable[[World], Awaitable[None]]] = {
    "claim without version": a_late_copy,
    "reaper without the lease predicate": a_reaper_while_the_provider_is_slow,
    "cache without compare-and-set": a_write_that_was_slow,
    "requeue without version": a_click_on_an_old_page,
    "outcome applied without version and token": an_outcome_after_the_next_claim,
    "an end without its callback": an_answer_after_the_lease,
}


@contextmanager
def _parts(request: pytest.FixtureRequest, where: str) -> Iterator[Callable[[], Parts]]:
    if where == "memory":
        yield InMemory
        return
    services: Services = request.getfixturevalue("services")
    servers = RealServers(request.getfixturevalue("database"), services.redis, request.getfixturevalue("namespace"))
    yield lambda: Real(servers)
    servers.close()


def _play(script: Callable[[World], Awaitable[None]], parts: Callable[[], Parts]) -> None:
    async def play() -> None:
        world = World(parts())
        try:
            await script(world)
            await world.drain()
        finally:
            await world.close()

    asyncio.run(play())


@pytest.mark.parametrize("where", ["memory", "servers"])
@pytest.mark.parametrize("bug", SCRIPTS)
def test_a_missing_fence_is_found(
    bug: str, where: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with _parts(request, where) as parts:
        _play(SCRIPTS[bug], parts)  # with the fence, nothing happens
        BUGS[bug].plant(monkeypatch.setattr)
        if where == "memory":
            BUGS[bug].plant_fake(monkeypatch.setattr)
        with pytest.raises(Violation, match=_named(bug)):
            _play(SCRIPTS[bug], parts)


@pytest.mark.parametrize("bug", sorted(BUGS.keys() - SCRIPTS.keys()))
def test_the_search_finds_a_planted_bug(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[bug].plant(monkeypatch.setattr)
    BUGS[bug].plant_fake(monkeypatch.setattr)
    with pytest.raises(Violation, match=_named(bug)):
        explore(Interleavings, examples=3000, steps=40, shrink=False)
