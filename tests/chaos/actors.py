"""The actors: what an API, a worker and a relay are made of, composed as `api.app` and `consumers.worker` do it."""

from typing import TYPE_CHECKING, Any

from consumers.modes import Concurrent
from consumers.reaper import Reaper
from consumers.relay import Relay
from consumers.renewer import Renewer
from consumers.runner import Lease, Runner, Work
from consumers.slots import Slots
from consumers.sweeper import Sweeper
from infra.postgres.errors import Unavailable
from infra.postgres.transitions.accept import Accepted
from jobs.lifecycle import Status
from jobs.model import CALLBACKS, Claimed, KnownStatus, NewJob, Progress, Route
from jobs.outcome import Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer
from service.announcing import Announcer
from service.batching import Batcher, ledger_batcher
from service.publishing import EagerPublisher, Outgoing
from service.recording import Recorder
from service.statuses import Statuses
from tests.chaos.stage import DEAD, FOREVER, QUEUE, Gated, Leases, Process
from tests.making import SANDBOX

if TYPE_CHECKING:
    from tests.chaos.world import World

LEASE_SECONDS = 60.0
POLICY = RetryPolicy(attempts=4, base_seconds=0.001, cap_seconds=0.001, deadline_seconds=FOREVER)


class Api:
    """What `service.acceptance` does, without HTTP."""

    def __init__(self, world: "World", process: Process):
        self.world, self.process = world, process
        ledger, outbox, broker, cache = world.seen_by(process)
        deletes = ledger_batcher(outbox.delete)
        self._eager = EagerPublisher(broker, deletes.submit)
        self._accepting: Batcher[NewJob, Any] = ledger_batcher(ledger.accept)
        self._statuses = Statuses(cache, _nothing)
        world.spawn(process, self._eager.run())

    async def accept(self, job: NewJob) -> None:
        """Commit, tell the client, publish, cache."""
        accepted = await self._accepting.submit(job)
        assert isinstance(accepted, Accepted)
        self.world.told(accepted)
        if not accepted.replayed:
            self._eager.offer(Outgoing(Pointer(job.id, 1), Route.WORK, job.queue.name, None, FOREVER))
            self._statuses.cache(KnownStatus(job.id, 1, Status.QUEUED, job.queue.kind, job.client_id, FOREVER))


class Worker:
    """What `consumers.worker` makes a worker of."""

    timeout_seconds = 10.0

    def __init__(self, world: "World", process: Process):
        self.world, self.process = world, process
        ledger, outbox, broker, cache = world.seen_by(process)
        deletes = ledger_batcher(outbox.delete)
        eager = EagerPublisher(broker, deletes.submit)
        recorder = Recorder(
            ledger_batcher(ledger.apply),
            ledger_batcher(ledger.accept_late),
            Announcer(eager, Statuses(cache, _nothing), grace_seconds=FOREVER),
            lost_leases=3,
        )
        mode = Concurrent(Renewer(ledger, LEASE_SECONDS), 3, monotonic=lambda: world.clock)
        self.runner = Runner(
            {QUEUE: Work(self, POLICY, Slots(4), mode)},
            ledger_batcher(ledger.claim, key=lambda r: r.pointer, duplicate=lambda _: None),
            recorder,
            Lease(LEASE_SECONDS, 5.0, 3),
            monotonic=lambda: world.clock,
        )
        self.reaper = Reaper(Leases(ledger), recorder, {QUEUE: POLICY}, lease_seconds=LEASE_SECONDS)
        world.spawn(process, eager.run())

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome:
        """The handler: one request at the provider, whose answer waits at a gate."""
        send = self.world.request(self.process, job)
        outcome: Outcome = await self.world.gate(self.process, "provider") or Outcome(Verdict.ACCEPTED, None, 200)
        send.refused = outcome.surely_not_sent
        return outcome


class Relays:
    """What `consumers.worker` makes a relay of."""

    def __init__(self, world: "World", process: Process):
        self.process = process
        _, outbox, broker, _ = world.seen_by(process)
        sweep = Gated(world, process, world.parts.sweep, Unavailable("lost"))
        self.sweeper = Sweeper(sweep, broker, [SANDBOX], after_seconds=30)  # type: ignore[arg-type]
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
