"""An API, a worker and a relay for the simulation, composed as in `api.app` and `consumers.worker`."""

from functools import partial
from typing import TYPE_CHECKING, Any

from consumers.modes import Concurrent, Renewer
from consumers.reaper import Reaper
from consumers.relay import Relay
from consumers.runner import Runner, Work
from consumers.slots import Slots
from consumers.sweeper import Sweeper
from infra.postgres.errors import Unavailable
from infra.postgres.transitions.accept import Accepted
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Claimed, KnownStatus, NewJob, Progress, Route
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from service.batching import Batcher, ledger_batcher
from service.publishing import EagerPublisher, Outgoing, outbox_deletes
from service.statuses import Statuses
from service.transitions import Recorder, claim_batcher
from tests.chaos.steps import DEAD, FOREVER, QUEUE, Leases, Process, SteppedAdapter
from tests.support.factories import SANDBOX

if TYPE_CHECKING:
    from tests.chaos.simulation import Simulation

LEASE_SECONDS = 60.0
POLICY = RetryPolicy(attempts=4, base_seconds=0.001, cap_seconds=0.001, deadline_seconds=FOREVER)


class SimulatedApi:
    """`service.transitions.Acceptance` without HTTP."""

    def __init__(self, simulation: "Simulation", process: Process):
        self.simulation, self.process = simulation, process
        ledger, outbox, broker, cache = simulation.adapters_of(process)
        self._eager = EagerPublisher(broker, outbox_deletes(outbox.delete), grace_seconds=FOREVER)
        self._accepting: Batcher[NewJob, Any] = ledger_batcher(ledger.accept)
        self._statuses = Statuses(cache, _nothing)
        simulation.spawn(process, self._eager.run())

    async def accept(self, job: NewJob) -> None:
        """Commit, answer the client, publish, cache."""
        accepted = await self._accepting.submit(job)
        assert isinstance(accepted, Accepted)
        self.simulation.record_accepted(accepted)
        if not accepted.replayed:
            self._eager.offer(Outgoing(Pointer(job.id, 1), Route.WORK, job.queue.name, 0.0))
            self._statuses.cache(KnownStatus(job.id, 1, Status.QUEUED, job.queue.kind, job.client_id, FOREVER))


class SimulatedWorker:
    """The worker of `consumers.worker`."""

    def __init__(self, simulation: "Simulation", process: Process):
        self.simulation, self.process = simulation, process
        ledger, outbox, broker, cache = simulation.adapters_of(process)
        process.worker_id = worker_id = next(simulation.worker_ids)
        simulation.backend.lock(worker_id)
        eager = EagerPublisher(broker, outbox_deletes(outbox.delete), grace_seconds=FOREVER)
        recorder = Recorder(
            ledger_batcher(ledger.apply),
            ledger_batcher(ledger.accept_late),
            eager,
            Statuses(cache, _nothing),
            lost_leases=3,
        )
        mode = Concurrent(Renewer(ledger.renew, LEASE_SECONDS), 3, monotonic=lambda: simulation.clock)
        self.runner = Runner(
            {QUEUE: Work(self.handle, 10.0, POLICY, Slots(4), mode)},
            claim_batcher(partial(ledger.claim, worker_id=worker_id), recorder),
            recorder,
            lease_seconds=LEASE_SECONDS,
            margin_seconds=5.0,
            monotonic=lambda: simulation.clock,
        )
        leases, clock = Leases(ledger, simulation), lambda: simulation.clock
        self.reaper = Reaper(leases, recorder.record_lost, {QUEUE: POLICY}, LEASE_SECONDS, grace_seconds=0.0, monotonic=clock)
        simulation.spawn(process, eager.run())

    async def handle(self, job: Claimed, progress: Progress) -> Outcome:
        """Handle a job: one request at the provider, whose answer waits at a gate."""
        request = self.simulation.request(self.process, job)
        outcome: Outcome = await self.simulation.gate(self.process, "provider") or Outcome(Verdict.ACCEPTED, None, 200)
        request.not_sent = outcome.surely_not_sent
        return outcome


class SimulatedRelay:
    """The relay of `consumers.relay_process`."""

    def __init__(self, simulation: "Simulation", process: Process):
        self.process = process
        _, outbox, broker, _ = simulation.adapters_of(process)
        sweep = SteppedAdapter(simulation, process, simulation.backend.sweep, Unavailable("the answer was lost"))
        self.sweeper = Sweeper(sweep, broker.ready_messages, [SANDBOX], lambda: True, after_seconds=30)  # type: ignore[arg-type]
        self.relay = Relay(
            outbox,
            broker,
            _leads,
            queues=frozenset({QUEUE, DEAD, CALLBACKS.name}),
            ready_depth=1000,
            poll_seconds=1,
        )


async def _leads() -> bool:
    return True


async def _nothing(ids: Any, timeout: float) -> list[None]:
    return [None for _ in ids]
