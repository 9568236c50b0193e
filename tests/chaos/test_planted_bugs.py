"""Each planted bug is found, and the violation names its invariant."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from jobs.model import Delivery
from jobs.outcome import Outcome, Verdict
from tests.chaos.backends import Backend
from tests.chaos.planted import BUGS
from tests.chaos.simulated_processes import LEASE_SECONDS
from tests.chaos.simulation import Simulation, Violation
from tests.chaos.steps import QUEUE

REJECTED = Outcome(Verdict.REJECTED, "http_400", 400)
UNKNOWN = Outcome(Verdict.UNKNOWN, "timeout")
RETRYABLE = Outcome(Verdict.RETRYABLE, "http_500", 500)


def _named(bug: str) -> str:
    return "|".join(re.escape(invariant) for invariant in BUGS[bug].violates)


# A script of the few steps that need the fence.


async def _run_steps(
    simulation: Simulation, worker: int, answer: Outcome | None = None, *, but: str = "", rounds: int = 12
) -> None:
    """Open every gate except those named `but`; one worker consumes."""
    for _ in range(rounds):
        for gate in [gate for gate in simulation.gates if gate.name != but]:
            if gate in simulation.gates:
                simulation.open(gate, answer if gate.name == "provider" else None)
        await simulation.settle()
        simulation.deliver(simulation.workers[worker], 1)
        await simulation.settle()
        await simulation.check()


async def _publish(simulation: Simulation) -> None:
    """Accept one message, and run its API until the message is in the queue and its outbox row is deleted."""
    await simulation.accept(0, 1, Delivery.AT_LEAST_ONCE)
    while simulation.gates:
        simulation.open(simulation.gates[0])
        await simulation.settle()
    assert len(simulation.queues[QUEUE]) == 1


async def _relay(simulation: Simulation) -> None:
    simulation.advance_clock(1)
    simulation.spawn(simulation.relays[0].process, simulation.relays[0].relay.round())


async def a_nack_of_the_broker(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_LEAST_ONCE)
    while not (publishing := [gate for gate in simulation.gates if gate.name == "publish"]):
        simulation.open(simulation.gates[0])
        await simulation.settle()
    simulation.lose_answer(publishing[0])
    await _run_steps(simulation, 0)


async def a_death_before_the_claim(simulation: Simulation) -> None:
    await _publish(simulation)
    simulation.deliver(simulation.workers[0], 1)
    await simulation.settle()
    for gate in [gate for gate in simulation.gates if gate.name == "ack"]:
        simulation.open(gate)
        await simulation.settle()
    await simulation.replace(len(simulation.apis))
    await simulation.check()


async def two_copies_in_one_batch(simulation: Simulation) -> None:
    await _publish(simulation)
    simulation.queues[QUEUE] *= 2
    simulation.deliver(simulation.workers[0], 2)
    await _run_steps(simulation, 0)


async def an_unknown_outcome(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_MOST_ONCE)
    await _run_steps(simulation, 0, UNKNOWN)
    await _relay(simulation)
    await _run_steps(simulation, 0)


async def a_purged_queue(simulation: Simulation) -> None:
    await _publish(simulation)
    simulation.purge()


async def a_late_copy(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_LEAST_ONCE)
    while not simulation.queues[QUEUE]:
        simulation.open(simulation.gates[0])
        await simulation.settle()
    copy = simulation.queues[QUEUE][0]
    await _run_steps(simulation, 0, RETRYABLE, rounds=6)
    simulation.queues[QUEUE] = [copy]
    await _run_steps(simulation, 1)


async def a_reaper_while_the_provider_is_slow(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_LEAST_ONCE)
    await _run_steps(simulation, 0, but="provider")
    simulation.spawn(simulation.workers[1].process, simulation.workers[1].reaper.reap())
    simulation.spawn(simulation.workers[1].process, simulation.workers[1].reaper.reap_orphans())
    await _run_steps(simulation, 1, but="provider")
    await _run_steps(simulation, 1)


async def a_write_that_was_slow(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_LEAST_ONCE)
    while not (slow := [gate for gate in simulation.gates if gate.name == "write"]):
        simulation.open(simulation.gates[0])
        await simulation.settle()
    simulation.gates.remove(slow[0])
    await _run_steps(simulation, 0)
    simulation.gates.append(slow[0])
    await _run_steps(simulation, 0)


async def a_requeue_from_an_old_list(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_LEAST_ONCE)
    await _run_steps(simulation, 0, REJECTED)
    page = await simulation.backend.dead_letters()
    assert len(page) == 1
    await simulation.requeue(page)
    await _relay(simulation)
    await _run_steps(simulation, 0, REJECTED)
    await simulation.requeue(page)
    await simulation.check()


async def an_outcome_after_the_next_claim(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_LEAST_ONCE)
    await _run_steps(simulation, 0, but="provider")
    (slow,) = [gate for gate in simulation.gates if gate.name == "provider"]
    simulation.gates.remove(slow)
    simulation.advance_clock(LEASE_SECONDS + 1)
    simulation.spawn(simulation.workers[1].process, simulation.workers[1].reaper.reap())
    await _run_steps(simulation, 1, but="provider")
    await _relay(simulation)
    await _run_steps(simulation, 1, but="provider")
    simulation.gates.append(slow)
    simulation.open(slow)
    await _run_steps(simulation, 1, but="provider")


async def an_answer_after_the_lease(simulation: Simulation) -> None:
    await simulation.accept(0, 1, Delivery.AT_MOST_ONCE, callback_url="https://receiver.example")
    await _run_steps(simulation, 0, but="provider")
    (slow,) = [gate for gate in simulation.gates if gate.name == "provider"]
    simulation.gates.remove(slow)
    simulation.advance_clock(LEASE_SECONDS + 1)
    simulation.spawn(simulation.workers[1].process, simulation.workers[1].reaper.reap())
    await _run_steps(simulation, 1)
    simulation.gates.append(slow)
    simulation.open(slow)
    await _run_steps(simulation, 1)


SCRIPTS: dict[str, Callable[[Simulation], Awaitable[None]]] = {
    "outbox deleted before the confirm": a_nack_of_the_broker,
    "a nacked pointer is forgotten": a_nack_of_the_broker,
    "ack before the claim": a_death_before_the_claim,
    "no coalescing in a batch": two_copies_in_one_batch,
    "at_most_once tried again": an_unknown_outcome,
    "sweep missing": a_purged_queue,
    "claim without version": a_late_copy,
    "reaper without the lease predicate": a_reaper_while_the_provider_is_slow,
    "reaper without the workers' locks": a_reaper_while_the_provider_is_slow,
    "cache without compare-and-set": a_write_that_was_slow,
    "requeue without version": a_requeue_from_an_old_list,
    "outcome applied without version and token": an_outcome_after_the_next_claim,
    "an end without its callback": an_answer_after_the_lease,
}


def _play(script: Callable[[Simulation], Awaitable[None]], backend: Callable[[], Backend]) -> None:
    async def play() -> None:
        simulation = Simulation(backend())
        try:
            await script(simulation)
            await simulation.drain()
        finally:
            await simulation.close()

    asyncio.run(play())


@pytest.mark.parametrize("bug", BUGS)
def test_a_missing_fence_is_found(bug: str, backend: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch) -> None:
    _play(SCRIPTS[bug], backend)  # the fence holds
    BUGS[bug].plant(monkeypatch.setattr)
    with pytest.raises(Violation, match=_named(bug)):
        _play(SCRIPTS[bug], backend)
