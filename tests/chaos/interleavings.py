"""The search through orders of steps: Hypothesis chooses which process acts next, crashes included."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from jobs.model import Delivery
from jobs.outcome import Outcome, Verdict
from tests.chaos.backends import Backend
from tests.chaos.simulated_processes import LEASE_SECONDS
from tests.chaos.simulation import Simulation
from tests.chaos.steps import DEAD, QUEUE

ANSWERS = [
    None,  # accepted
    Outcome(Verdict.RETRYABLE, "http_500", 500),
    Outcome(Verdict.UNKNOWN, "timeout"),
    Outcome(Verdict.REJECTED, "http_400", 400),
    Outcome(Verdict.DEFERRED, "http_429", 429, surely_not_sent=True, retry_after_seconds=0.001),
]
INDEX = st.integers(0, 1000)


class Interleavings(RuleBasedStateMachine):
    """The actions that Hypothesis may choose, in any order; `backend` creates ledger and cache."""

    backend: Callable[[], Backend]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.simulation = self.runner.run(self._begin())
        self.listed: list[Any] = []

    async def _begin(self) -> Simulation:
        return Simulation(type(self).backend())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        async def step() -> None:
            await work
            await self.simulation.settle()
            await self.simulation.check()

        self.runner.run(step())

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        self._do(self.simulation.accept(0, count, Delivery.AT_LEAST_ONCE))

    @rule(api=st.integers(0, 1), count=st.integers(1, 2), delivery=st.sampled_from(Delivery))
    def accept(self, api: int, count: int, delivery: Delivery) -> None:
        self._do(self.simulation.accept(api, count, delivery))

    @precondition(lambda self: self.simulation.gates)
    @rule(index=INDEX, answer=st.sampled_from(ANSWERS))
    def open_gate(self, index: int, answer: Outcome | None) -> None:
        gate = self.simulation.gates[index % len(self.simulation.gates)]
        self._do(self._open(gate, answer if gate.name == "provider" else None))

    async def _open(self, gate: Any, answer: Outcome | None) -> None:
        self.simulation.open(gate, answer)

    @rule(but=INDEX, answer=st.sampled_from(ANSWERS), rounds=st.integers(1, 12))
    def hold_one_step(self, but: int, answer: Outcome | None, rounds: int) -> None:
        """One step is slow while all others continue: relays publish, workers consume."""
        slow = self.simulation.gates[but % len(self.simulation.gates)] if self.simulation.gates else None

        async def other_steps() -> None:
            for _ in range(rounds):
                for gate in [gate for gate in self.simulation.gates if gate is not slow]:
                    if gate in self.simulation.gates:
                        self.simulation.open(gate, answer if gate.name == "provider" else None)
                await self.simulation.settle()
                await self.simulation.check()
                self.simulation.deliver(self.simulation.workers[but % 3], 2)

        self._do(other_steps())

    @precondition(lambda self: any(gate.lost_answer for gate in self.simulation.gates))
    @rule(index=INDEX)
    def lose_answer(self, index: int) -> None:
        gates = [gate for gate in self.simulation.gates if gate.lost_answer is not None]

        async def lose() -> None:
            self.simulation.lose_answer(gates[index % len(gates)])

        self._do(lose())

    @precondition(lambda self: self.simulation.queues[QUEUE])
    @rule(worker=st.integers(0, 2), count=st.integers(1, 4))
    def deliver(self, worker: int, count: int) -> None:
        async def hand_over() -> None:
            self.simulation.deliver(self.simulation.workers[worker], count)

        self._do(hand_over())

    @precondition(lambda self: self.simulation.gates)
    @rule(index=st.integers(0, 6))
    def kill_process(self, index: int) -> None:
        self._do(self.simulation.replace(index))

    @rule(relay=st.integers(0, 1))
    def relay(self, relay: int) -> None:
        async def a_round() -> None:
            self.simulation.spawn(self.simulation.relays[relay].process, self.simulation.relays[relay].relay.round())

        self._do(a_round())

    @rule(worker=st.integers(0, 2))
    def reap(self, worker: int) -> None:
        async def start() -> None:
            self.simulation.spawn(self.simulation.workers[worker].process, self.simulation.workers[worker].reaper.reap())

        self._do(start())

    @rule(worker=st.integers(0, 2))
    def reap_orphans(self, worker: int) -> None:
        async def start() -> None:
            simulated = self.simulation.workers[worker]
            self.simulation.spawn(simulated.process, simulated.reaper.reap_orphans())

        self._do(start())

    @rule(relay=st.integers(0, 1))
    def sweep(self, relay: int) -> None:
        async def start() -> None:
            simulated = self.simulation.relays[relay]
            self.simulation.spawn(simulated.process, simulated.sweeper.sweep_once(self.simulation.clock))

        self._do(start())

    @rule()
    def expire_leases(self) -> None:
        async def wait() -> None:
            self.simulation.advance_clock(LEASE_SECONDS + 1)

        self._do(wait())

    @precondition(lambda self: self.simulation.queues[QUEUE])
    @rule()
    def purge(self) -> None:
        async def lose() -> None:
            self.simulation.purge()

        self._do(lose())

    @precondition(lambda self: self.simulation.queues[QUEUE])
    @rule(index=INDEX)
    def copy(self, index: int) -> None:
        async def twice() -> None:
            queue = self.simulation.queues[QUEUE]
            queue.append(queue[index % len(queue)])

        self._do(twice())

    @precondition(lambda self: self.simulation.queues[DEAD])
    @rule()
    def move_by_hand(self) -> None:
        async def move() -> None:
            self.simulation.queues[QUEUE].append(self.simulation.queues[DEAD].pop(0))

        self._do(move())

    @rule()
    def requeue_dead_letters(self) -> None:
        """Requeue the listed dead letters, then list them again; an empty list keeps the old one."""

        async def requeue() -> None:
            await self.simulation.requeue(self.listed)
            self.listed = await self.simulation.backend.dead_letters() or self.listed

        self._do(requeue())

    @rule()
    def wipe_cache(self) -> None:
        self._do(self.simulation.clear_cache())

    def teardown(self) -> None:
        try:
            if self.simulation.violation is None:
                self.runner.run(self.simulation.drain())
        finally:
            self.runner.run(self.simulation.close())
            self.runner.close()


def explore(backend: Callable[[], Backend], examples: int, *, shrink: bool = True) -> None:
    """Run `examples` interleavings of 40 steps, the same ones each time; raise the first violation."""
    machine = type("Interleavings", (Interleavings,), {"backend": staticmethod(backend)})
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
