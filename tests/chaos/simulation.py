"""A deterministic simulation of several processes: a test chooses the order of their steps, lost answers and crashes.

The simulated processes run the service's own batchers, publisher, runner, recorder, reaper, relay and sweeper.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

from infra.errors import Transient
from infra.postgres.errors import Unavailable
from infra.postgres.transitions.accept import Accepted
from infra.redis.connection import CacheDown
from jobs.lifecycle import ENDS, TRANSITIONS, Cause, Status
from jobs.model import CALLBACKS, Claimed, Delivery, NewJob
from jobs.wire import Pointer, decode
from tests.chaos.backends import Backend
from tests.chaos.simulated_processes import LEASE_SECONDS, SimulatedApi, SimulatedRelay, SimulatedWorker
from tests.chaos.steps import DEAD, QUEUE, Broker, Gate, Process, ProviderRequest, SteppedAdapter, UnackedDelivery
from tests.support.factories import message

# No fault run moves jobs between providers.
EDGES = {(edge.source, edge.target) for edge in TRANSITIONS if edge.cause is not Cause.MOVE}

# The names of the invariants, as a violation reports them.
WAITING_JOBS_ARE_QUEUED = "every waiting job is in the outbox, in the broker, or unacknowledged at a worker"
LEASED_SEND = "only the lease's holder sends a job, and once per claim"
BY_THE_TABLE = "versions rise one by one, by transitions of the table"
FENCED = "every action applies to the version that it names"
CACHE_FORWARD = "the cache never goes back to an older version"
AT_MOST_ONCE = "at_most_once reaches the provider at most once"
EVERY_JOB_ENDS = "every accepted job ends, in one state"
CALLBACK_COMMITTED = "every final status commits together with its callback"


class Violation(AssertionError):
    """A violated invariant; the message begins with its name."""

    def __init__(self, invariant: str, detail: str):
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant


class Simulation:
    """All processes, the broker, the provider, and the state that the invariants are checked against."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.clock = 0.0
        self.gates: list[Gate] = []
        self.queues: dict[str, list[bytes]] = {QUEUE: [], DEAD: [], CALLBACKS.name: []}
        self.purged: set[UUID] = set()  # jobs that lost a message in the broker
        self.accepted: set[UUID] = set()
        self.submitted_jobs: dict[UUID, NewJob] = {}
        self.requests: list[ProviderRequest] = []
        self.violation: Violation | None = None
        self.worker_ids = count(1)
        self._running_calls = 0
        self._cached_versions: dict[UUID, int] = {}
        self._call_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.apis = [SimulatedApi(self, Process(f"api {n}")) for n in range(2)]
        self.workers = [SimulatedWorker(self, Process(f"worker {n}")) for n in range(3)]
        self.relays = [SimulatedRelay(self, Process(f"relay {n}")) for n in range(2)]

    # Parts of processes

    def adapters_of(self, process: Process) -> tuple[Any, Any, Broker, Any]:
        """The ledger, outbox, broker and cache of one process."""
        lost_answer = Unavailable("the answer was lost")
        return (
            SteppedAdapter(self, process, self.backend.ledger, lost_answer),
            SteppedAdapter(self, process, self.backend.outbox, lost_answer),
            Broker(self, process),
            SteppedAdapter(self, process, self.backend.cache, CacheDown("the answer was lost")),
        )

    def spawn(self, process: Process, work: Any) -> None:
        task = asyncio.ensure_future(self._ignore_transient(work))
        self._tasks.add(task)

    async def _ignore_transient(self, work: Any) -> None:
        with suppress(Transient):
            await work

    # Steps

    async def gate(self, process: Process, name: str, lost_answer: Exception | None = None) -> Any:
        """Wait until the test opens the gate; the gates of a dead process never open."""
        gate = Gate(process, name, asyncio.get_running_loop().create_future(), lost_answer)
        if process.alive:
            self.gates.append(gate)
        return await gate.future

    async def call(self, method: Callable[..., Awaitable[Any]], arguments: Any, named: Any) -> Any:
        """Run one call to an adapter; check the ledger before and after it."""
        self._running_calls += 1
        try:
            async with self._call_lock:
                before = self.backend.jobs()
                result = await method(*arguments, **named)
                self._check_transitions(before, self.backend.jobs(), method.__name__, arguments, result)
                return result
        finally:
            self._running_calls -= 1

    def open(self, gate: Gate, answer: Any = None) -> None:
        self.gates.remove(gate)
        gate.future.set_result(answer)

    def lose_answer(self, gate: Gate) -> None:
        self.gates.remove(gate)
        if gate.lost_answer is None:
            gate.future.set_result(None)
        else:
            gate.future.set_exception(gate.lost_answer)

    async def settle(self) -> None:
        """Wait until every process waits at a gate or is idle."""
        runnable: deque[object] = vars(asyncio.get_running_loop())[
            "_ready"
        ]  # without this task; asyncio has no public name for it
        await asyncio.sleep(0)
        while runnable or self._running_calls:  # noqa: ASYNC110  a thread may talk to Postgres
            await asyncio.sleep(0 if runnable else 0.0005)
        if self.violation is not None:
            raise self.violation

    def kill(self, process: Process) -> None:
        """SIGKILL a process: its steps stop; the broker takes back its deliveries."""
        process.alive = False
        self.gates = [gate for gate in self.gates if gate.process is not process]
        for delivery in process.unacked:
            self.queues[delivery.queue].insert(0, delivery.body)
        process.unacked.clear()
        if process.worker_id is not None:
            self.backend.unlock(process.worker_id)

    def deliver(self, worker: SimulatedWorker, count: int) -> None:
        for _ in range(min(count, len(self.queues[QUEUE]))):
            delivery = UnackedDelivery(self.queues[QUEUE].pop(0), QUEUE, self, worker.process)
            worker.process.unacked.append(delivery)
            worker.runner.dispatch(delivery)
            self._tasks |= worker.runner._running

    def advance_clock(self, seconds: float) -> None:
        self.clock += seconds
        self.backend.advance_clock(seconds)

    def purge(self) -> None:
        self.purged |= {decode(body).id for body in self.queues[QUEUE]}
        self.queues[QUEUE].clear()

    # Invariants

    def _violated(self, invariant: str, detail: str) -> None:
        self.violation = self.violation or Violation(invariant, detail)

    def record_accepted(self, accepted: Accepted) -> None:
        self.accepted.add(accepted.id)
        if accepted.id not in self.backend.jobs():
            self._violated(EVERY_JOB_ENDS, f"{accepted.id} was accepted and is not in the ledger")

    def request(self, process: Process, job: Claimed) -> ProviderRequest:
        """Record one request at the provider by the process that claimed the job."""
        request = ProviderRequest(job.idempotency_key, job.revision, job.token, process)
        state = self.backend.jobs()[job.id]
        if (state.token, state.status) != (job.token, Status.PROCESSING) or not state.leased:
            self._violated(LEASED_SEND, f"{job.id} is sent by {process.name}, whose claim has ended ({state})")
        for other in self.requests:
            if other.token == job.token:
                self._violated(LEASED_SEND, f"{job.id} is sent by {process.name} and {other.process.name}")
            repeated = (other.key, other.revision) == (
                request.key,
                request.revision,
            )  # a new revision is an operator's decision
            if repeated and not other.not_sent and job.delivery is Delivery.AT_MOST_ONCE:
                self._violated(AT_MOST_ONCE, f"{request.key} was sent before")
        self.requests.append(request)
        return request

    def _check_transitions(
        self, before: dict[UUID, Any], after: dict[UUID, Any], call: str, arguments: Any, result: Any
    ) -> None:
        for id_, new in after.items():
            old = before.get(id_)
            if old is None:
                allowed = (new.version, new.status) == (1, Status.QUEUED)
            elif old.version == new.version:
                allowed = old.status == new.status
            else:
                allowed = new.version == old.version + 1 and (old.status, new.status) in EDGES
            if not allowed:
                self._violated(BY_THE_TABLE, f"{call} moved {id_} from {old} to {new}")
            has_callback_url = id_ in self.submitted_jobs and self.submitted_jobs[id_].callback_url is not None
            if has_callback_url and new.status in ENDS and (id_, new.version) not in self.backend.callbacks():
                self._violated(
                    CALLBACK_COMMITTED, f"{call} moved {id_} to {new.status} at version {new.version} without a callback"
                )
        if call == "claim":
            for request, job in zip(arguments[0], result, strict=True):
                if job is not None and job.version != request.version + 1:
                    self._violated(FENCED, f"a claim of version {request.version} got {job.version - 1}")
        if call == "apply":
            for step in arguments[0]:
                old = before[step.id]
                moved = after[step.id].version != old.version
                if moved and old.version != step.version:
                    self._violated(FENCED, f"an outcome for version {step.version} was applied to version {old.version}")
                if step.cause is Cause.LEASE_LOST and old.leased and moved:
                    self._violated(LEASED_SEND, f"{step.id} was reaped from a worker whose lease has not expired")

    async def requeue(self, letters: list[Any]) -> None:
        """An operator requeues dead letters that were listed earlier."""
        before = self.backend.jobs()
        done = await self.backend.requeue(letters)
        after = self.backend.jobs()
        for letter in letters:
            if letter.id in done and before[letter.id].version != letter.version:
                self._violated(FENCED, f"a requeue of version {letter.version} requeued version {before[letter.id].version}")
            if letter.id not in done and after[letter.id] != before[letter.id]:
                self._violated(BY_THE_TABLE, f"{letter.id} was changed by a requeue that reports no change")

    async def check(self) -> None:
        """Check the invariants that hold after every step."""
        pointers = self.backend.outbox_rows()
        bodies = [*self.queues[QUEUE], *self.queues[CALLBACKS.name], *(d.body for w in self.workers for d in w.process.unacked)]
        pointers |= {decode(body) for body in bodies}
        for id_, job in self.backend.jobs().items():
            waits = job.status in (Status.QUEUED, Status.RETRYING)
            if waits and Pointer(id_, job.version) not in pointers and id_ not in self.purged:
                self._violated(
                    WAITING_JOBS_ARE_QUEUED, f"{id_} is {job.status} at version {job.version}, without outbox row or message"
                )
        cached = await self.backend.cached()
        for id_, version in cached.items():
            if version < self._cached_versions.get(id_, 0):
                self._violated(CACHE_FORWARD, f"{id_} was cached at version {self._cached_versions[id_]}, then at {version}")
        self._cached_versions = cached
        if self.violation is not None:
            raise self.violation

    async def clear_cache(self) -> None:
        self._cached_versions = {}
        await self.backend.clear_cache()

    # Recovery

    async def drain(self) -> None:
        """Run without faults until every job reaches a final status; fail if one does not."""
        for _ in range(12):
            await self._run_until_idle()
            if all(job.status in ENDS for id_, job in self.backend.jobs().items() if id_ in self.submitted_jobs):
                break
            self.advance_clock(LEASE_SECONDS + 31)
            for relay in self.relays:
                self.spawn(relay.process, relay.sweeper.sweep_once(self.clock))
                self.spawn(relay.process, relay.relay.round())
            for worker in self.workers:
                self.spawn(worker.process, worker.reaper.reap())
        jobs = self.backend.jobs()
        for id_ in self.accepted:
            if id_ not in jobs or jobs[id_].status not in ENDS:
                raise Violation(EVERY_JOB_ENDS, f"{id_} is {jobs.get(id_)}")

    async def _run_until_idle(self) -> None:
        for _ in range(400):
            await self.settle()
            for worker in self.workers:
                self.deliver(worker, 2)
            await self.settle()
            if not self.gates and not self.queues[QUEUE]:
                return
            for gate in list(self.gates):
                if gate in self.gates:
                    self.open(gate)

    async def close(self) -> None:
        for process in self._processes():
            process.alive = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backend.close()

    def _processes(self) -> list[Process]:
        return [*(a.process for a in self.apis), *(w.process for w in self.workers), *(r.process for r in self.relays)]

    # Actions of the driver

    async def accept(self, api: int, count: int, delivery: Delivery, callback_url: str | None = None) -> None:
        for _ in range(count):
            job = replace(message(delivery=delivery), callback_url=callback_url)
            self.submitted_jobs[job.id] = job
            self.spawn(self.apis[api].process, self.apis[api].accept(job))
        await self.settle()

    async def replace(self, index: int) -> None:
        """Kill one process at its current step and start its successor."""
        process = self._processes()[index]
        self.kill(process)
        successor = Process(process.name)
        if index < len(self.apis):
            self.apis[index] = SimulatedApi(self, successor)
        elif (at := index - len(self.apis)) < len(self.workers):
            self.workers[at] = SimulatedWorker(self, successor)
        else:
            self.relays[at - len(self.workers)] = SimulatedRelay(self, successor)
        await self.settle()
