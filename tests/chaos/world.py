"""The service's own code on a stage: a test says in which order the steps of several processes happen.

And which answers are lost, and where a process dies: after any step, as a SIGKILL would have it. The code is the real one:
batchers, publisher, runner, recorder, reaper, relay, sweeper.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

from infra.errors import Transient
from infra.postgres.errors import Unavailable
from infra.postgres.ledger import Accepted
from infra.redis.status_cache import CacheDown
from jobs.lifecycle import ENDS, TRANSITIONS, Cause, Status
from jobs.model import CALLBACKS, Claimed, Delivery, NewJob
from jobs.wire import Pointer, decode
from tests.chaos.actors import LEASE_SECONDS, Api, Relays, Worker
from tests.chaos.parts import Parts
from tests.chaos.stage import DEAD, QUEUE, Broker, Gate, Gated, Held, Process, Send
from tests.support.factories import message

# No fault run moves jobs between providers.
EDGES = {(edge.source, edge.target) for edge in TRANSITIONS if edge.cause is not Cause.MOVE}

# The invariants, by the names that a violation says.
ON_ITS_WAY = "what waits is on its way: in the outbox, in the broker, or in a worker's hands"
ONE_SEND = "a job is sent by whoever holds its lease, and once for each claim"
BY_THE_TABLE = "versions rise one by one, by transitions of the table"
FENCED = "whatever acts on a job acts on the version it names"
CACHE_FORWARD = "the cache never goes back to an older version"
AT_MOST_ONCE = "at_most_once reaches the provider at most once"
ALL_END = "every accepted job ends, in one state"
TOLD = "every end has its callback, from the same moment on"


class Violation(AssertionError):
    """An invariant does not hold; its name comes first."""

    def __init__(self, invariant: str, what: str):
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


class World:
    """All processes, the broker, the provider, and what the invariants are judged by."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self.clock = 0.0
        self.gates: list[Gate] = []
        self.queues: dict[str, list[bytes]] = {QUEUE: [], DEAD: [], CALLBACKS.name: []}
        self.lost: set[UUID] = set()  # of whose messages the broker was made to lose one
        self.accepted: set[UUID] = set()
        self.asked: dict[UUID, NewJob] = {}
        self.sends: list[Send] = []
        self.broken: Violation | None = None
        self.busy = 0
        self._known: dict[UUID, int] = {}  # versions in the cache
        self._acting = asyncio.Lock()
        self._keep: set[asyncio.Task[Any]] = set()
        self.apis = [Api(self, Process(f"api {n}")) for n in range(2)]
        self.workers = [Worker(self, Process(f"worker {n}")) for n in range(3)]
        self.relays = [Relays(self, Process(f"relay {n}")) for n in range(2)]

    # What processes are made of

    def seen_by(self, process: Process) -> tuple[Any, Any, Broker, Any]:
        lost = Unavailable("the answer was lost")
        ledger, outbox = Gated(self, process, self.parts.ledger, lost), Gated(self, process, self.parts.outbox, lost)
        return ledger, outbox, Broker(self, process), Gated(self, process, self.parts.cache, CacheDown("lost"))

    def spawn(self, process: Process, work: Any) -> None:
        task = asyncio.ensure_future(self._ignore_transient(work))
        self._keep.add(task)

    async def _ignore_transient(self, work: Any) -> None:
        with suppress(Transient):
            await work

    # Steps

    async def gate(self, process: Process, name: str, lost: Exception | None = None) -> Any:
        """Wait until somebody opens it: for ever once the process is dead."""
        gate = Gate(process, name, asyncio.get_running_loop().create_future(), lost)
        if process.alive:
            self.gates.append(gate)
        return await gate.opened

    async def act(self, call: Callable[..., Awaitable[Any]], arguments: Any, named: Any) -> Any:
        """One effect, with the ledger looked at before and after it."""
        self.busy += 1
        try:
            async with self._acting:
                before = self.parts.jobs()
                result = await call(*arguments, **named)
                self._judge(before, self.parts.jobs(), call.__name__, arguments, result)
                return result
        finally:
            self.busy -= 1

    def open(self, gate: Gate, answer: Any = None) -> None:
        self.gates.remove(gate)
        gate.opened.set_result(answer)

    def lose_answer(self, gate: Gate) -> None:
        self.gates.remove(gate)
        if gate.lost is None:
            gate.opened.set_result(None)
        else:
            gate.opened.set_exception(gate.lost)

    async def settle(self) -> None:
        """Until every process waits at a gate, or for nothing."""
        runnable: deque[object] = vars(asyncio.get_running_loop())["_ready"]  # besides ourselves; nothing public tells
        await asyncio.sleep(0)
        while runnable or self.busy:  # noqa: ASYNC110  busy: a thread talks to Postgres
            await asyncio.sleep(0 if runnable else 0.0005)
        if self.broken is not None:
            raise self.broken

    def kill(self, process: Process) -> None:
        """SIGKILL: nothing that it has begun goes on; the broker gets its deliveries back."""
        process.alive = False
        self.gates = [gate for gate in self.gates if gate.process is not process]
        for held in process.held:
            self.queues[held.queue].insert(0, held.body)
        process.held.clear()

    def deliver(self, worker: Worker, count: int) -> None:
        for _ in range(min(count, len(self.queues[QUEUE]))):
            held = Held(self.queues[QUEUE].pop(0), QUEUE, self, worker.process)
            worker.process.held.append(held)
            worker.runner.dispatch(held)
            self._keep |= worker.runner._running

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds
        self.parts.pass_time(seconds)

    def purge(self) -> None:
        self.lost |= {decode(body).id for body in self.queues[QUEUE]}
        self.queues[QUEUE].clear()

    # What is judged

    def _violated(self, invariant: str, what: str) -> None:
        self.broken = self.broken or Violation(invariant, what)

    def told(self, accepted: Accepted) -> None:
        self.accepted.add(accepted.id)
        if accepted.id not in self.parts.jobs():
            self._violated(ALL_END, f"{accepted.id} was accepted and is not in the ledger")

    def request(self, process: Process, job: Claimed) -> Send:
        """One request at the provider, by the process that has claimed the job."""
        send = Send(job.idempotency_key, job.revision, job.token, process)
        seen = self.parts.jobs()[job.id]
        if (seen.token, seen.status) != (job.token, Status.PROCESSING) or not seen.leased:
            self._violated(ONE_SEND, f"{job.id} is sent by {process.name}, whose claim is over ({seen})")
        for other in self.sends:
            if other.token == job.token:
                self._violated(ONE_SEND, f"{job.id} is sent by {process.name} and {other.process.name}")
            again = (other.key, other.revision) == (send.key, send.revision)  # else an operator has decided so
            if again and not other.refused and job.delivery is Delivery.AT_MOST_ONCE:
                self._violated(AT_MOST_ONCE, f"{send.key} was sent before")
        self.sends.append(send)
        return send

    def _judge(self, before: dict[UUID, Any], after: dict[UUID, Any], call: str, arguments: Any, result: Any) -> None:
        for id_, now in after.items():
            was = before.get(id_)
            if was is None:
                fits = (now.version, now.status) == (1, Status.QUEUED)
            elif was.version == now.version:
                fits = was.status == now.status
            else:
                fits = now.version == was.version + 1 and (was.status, now.status) in EDGES
            if not fits:
                self._violated(BY_THE_TABLE, f"{call} took {id_} from {was} to {now}")
            wants = id_ in self.asked and self.asked[id_].callback_url is not None
            if wants and now.status in ENDS and (id_, now.version) not in self.parts.told():
                self._violated(TOLD, f"{call} took {id_} to {now.status} at version {now.version}, and nobody is called")
        if call == "claim":
            for request, job in zip(arguments[0], result, strict=True):
                if job is not None and job.version != request.pointer.version + 1:
                    self._violated(FENCED, f"a claim of version {request.pointer.version} got {job.version - 1}")
        if call == "apply":
            for step in arguments[0]:
                was = before[step.id]
                moved = after[step.id].version != was.version
                if moved and was.version != step.version:
                    self._violated(FENCED, f"what a claim of version {step.version} came to was applied to {was.version}")
                if step.lost_lease and was.leased and moved:
                    self._violated(ONE_SEND, f"{step.id} was taken from a worker whose lease still runs")

    async def requeue(self, letters: list[Any]) -> None:
        """An operator's click on what was listed some time ago."""
        before = self.parts.jobs()
        done = await self.parts.requeue(letters)
        after = self.parts.jobs()
        for letter in letters:
            if letter.id in done and before[letter.id].version != letter.version:
                self._violated(FENCED, f"a click on version {letter.version} requeued {before[letter.id].version}")
            if letter.id not in done and after[letter.id] != before[letter.id]:
                self._violated(BY_THE_TABLE, f"{letter.id} was changed by a click that says it was not")

    async def look(self) -> None:
        """What must hold after every step."""
        on_its_way = self.parts.rows()
        bodies = [*self.queues[QUEUE], *self.queues[CALLBACKS.name], *(h.body for w in self.workers for h in w.process.held)]
        on_its_way |= {decode(body) for body in bodies}
        for id_, job in self.parts.jobs().items():
            waits = job.status in (Status.QUEUED, Status.RETRYING)
            if waits and Pointer(id_, job.version) not in on_its_way and id_ not in self.lost:
                self._violated(ON_ITS_WAY, f"{id_} is {job.status} at version {job.version}, and nowhere")
        cached = await self.parts.cached()
        for id_, version in cached.items():
            if version < self._known.get(id_, 0):
                self._violated(CACHE_FORWARD, f"{id_} was cached at version {self._known[id_]}, then at {version}")
        self._known = cached
        if self.broken is not None:
            raise self.broken

    async def forget_cache(self) -> None:
        self._known = {}
        await self.parts.forget_cache()

    # The end

    async def drain(self) -> None:
        """No more faults: everything goes on until all has ended; fails where it does not."""
        for _ in range(12):
            await self._quiet()
            if all(job.status in ENDS for id_, job in self.parts.jobs().items() if id_ in self.asked):
                break
            self.pass_time(LEASE_SECONDS + 31)
            for relay in self.relays:
                self.spawn(relay.process, relay.sweeper.sweep_once(self.clock))
                self.spawn(relay.process, relay.relay.round())
            for worker in self.workers:
                self.spawn(worker.process, worker.reaper.reap())
        jobs = self.parts.jobs()
        for id_ in self.accepted:
            if id_ not in jobs or jobs[id_].status not in ENDS:
                raise Violation(ALL_END, f"{id_} is {jobs.get(id_)}")

    async def _quiet(self) -> None:
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
        for task in self._keep:
            task.cancel()
        await asyncio.gather(*self._keep, return_exceptions=True)
        await self.parts.close()

    def _processes(self) -> list[Process]:
        return [*(a.process for a in self.apis), *(w.process for w in self.workers), *(r.process for r in self.relays)]

    # What a driver may do

    async def accept(self, api: int, count: int, delivery: Delivery, callback_url: str | None = None) -> None:
        for _ in range(count):
            job = replace(message(delivery=delivery), callback_url=callback_url)
            self.asked[job.id] = job
            self.spawn(self.apis[api].process, self.apis[api].accept(job))
        await self.settle()

    async def replace(self, index: int) -> None:
        """Kill one process after whatever step it has come to, and start another in its place."""
        process = self._processes()[index]
        self.kill(process)
        fresh = Process(process.name)
        if index < len(self.apis):
            self.apis[index] = Api(self, fresh)
        elif (at := index - len(self.apis)) < len(self.workers):
            self.workers[at] = Worker(self, fresh)
        else:
            self.relays[at - len(self.workers)] = Relays(self, fresh)
        await self.settle()
