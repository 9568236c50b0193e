"""The runner: delivery → free slot → claim → ack → handle → decide → apply. RabbitMQ's part ends when the ledger has the job.

From then on the lease is what brings a job back, never redelivery. Slots bound the work; the broker's prefetch only fills them.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import structlog

from consumers.gate import Gate, Taking
from consumers.quarantine import Quarantine
from consumers.renewer import Renewer
from consumers.slots import Slots
from infra.postgres.ledger import ClaimRequest
from jobs.model import Claimed, Priority, Progress
from jobs.outcome import CUT_OFF, NOT_STARTED, Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer, Undecodable, decode
from service.batching import Batcher
from service.recording import Recorder

log = structlog.get_logger()

CLAIM_RETRY_SECONDS = 1.0


class Delivery(Protocol):
    """What the runner needs of a delivery."""

    @property
    def body(self) -> bytes: ...
    @property
    def queue(self) -> str: ...
    async def ack(self) -> None: ...
    async def reject(self) -> None: ...
    async def nack(self) -> None: ...


class Handler(Protocol):
    """Does one claimed job. Returns what became of it; never acknowledges, commits, or raises to mean "retry"."""

    @property
    def timeout_seconds(self) -> float:
        """The longest that one call takes without its lease being renewed."""
        ...

    async def __call__(self, job: Claimed, progress: Progress) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Work:
    """How the jobs of one queue are done: by whom, how many at once in this process, and when again.

    `on_shutdown`: the outcome of a job that a shutdown interrupts. `exclusive`: one job may run for minutes. Its lease is
    renewed, and the process takes no other job of the queue, not even in advance. `gate`: whether the provider is sent to now.
    """

    handler: Handler
    policy: RetryPolicy
    slots: Slots
    priority: Priority = Priority.NORMAL
    on_shutdown: Outcome = CUT_OFF
    exclusive: bool = False
    gate: Gate | None = None

    @property
    def is_open(self) -> bool:
        return self.gate is not None and self.gate.is_open


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a claim lasts, the margin that must be left after a handler's timeout to record its outcome, and how often
    it may be lost by one job."""

    seconds: float
    margin_seconds: float
    limit: int = 3


class Runner:
    """Runs the deliveries of all queues of one process; `works` by logical queue."""

    def __init__(
        self,
        works: Mapping[str, Work],
        claims: Batcher[ClaimRequest, Claimed | None],
        recorder: Recorder,
        renewer: Renewer,
        taking: Taking,
        lease: Lease,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._works = works
        self._claims = claims
        self._recorder = recorder
        self._renewer = renewer
        self._taking = taking
        self._lease = lease
        self._monotonic = monotonic
        self._quarantine = Quarantine()
        self._stopping = False
        self._running: set[asyncio.Task[None]] = set()
        self._sends: set[asyncio.Task[Outcome]] = set()

    def dispatch(self, delivery: Delivery) -> None:
        """Take a delivery on; returns at once."""
        task = asyncio.create_task(self._run(delivery))
        self._running.add(task)
        task.add_done_callback(self._finished)

    async def stop(self, grace_seconds: float) -> None:
        """Give back what has not started, finish what has within the grace, then cut it: its outcome is unknown."""
        self._stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace_seconds)
        for send in self._sends:
            send.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=self._lease.margin_seconds)
        if self._running:
            log.warning("worker.left_to_lease", jobs=len(self._running), reason="Postgres did not take their outcome in time")
        for task in self._running:
            task.cancel()

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job.crashed", id=task.get_name(), exc_info=error)

    async def _run(self, delivery: Delivery) -> None:
        try:
            pointer = decode(delivery.body)
        except Undecodable as error:
            log.warning("delivery.undecodable", queue=delivery.queue, reason=str(error), effect="moved to the dead queue")
            await delivery.reject()
            return
        if task := asyncio.current_task():
            task.set_name(str(pointer.id))
        work = self._works[delivery.queue]
        async with work.slots.slot(work.priority):
            if self._stopping or work.is_open:
                await delivery.nack()
                return
            if not work.exclusive:
                await self._quarantine.door_open()
                await self._claim_and_do(pointer, delivery, work)
                return
            await self._taking.pause(delivery.queue)
            try:
                await self._claim_and_do(pointer, delivery, work)
            finally:
                await self._taking.resume(delivery.queue)

    async def _claim_and_do(self, pointer: Pointer, delivery: Delivery, work: Work) -> None:
        claimed_at = self._monotonic()
        try:
            job = await self._claim(pointer)
        except Exception:
            log.exception("claim.failed", id=str(pointer.id), version=pointer.version, effect="requeued")
            await asyncio.sleep(CLAIM_RETRY_SECONDS)
            await delivery.nack()
            return
        await delivery.ack()
        if job is None:
            log.debug("delivery.stale", id=str(pointer.id), version=pointer.version)
            return
        self._recorder.claimed(job, claimed_at)
        await self._do(job, work, claimed_at)

    async def _claim(self, pointer: Pointer) -> Claimed | None:
        """Waits as long as Postgres is away: nothing is started that cannot be recorded."""
        return await self._claims.submit(ClaimRequest(pointer, uuid4(), self._lease.seconds))

    async def _do(self, job: Claimed, work: Work, claimed_at: float) -> None:
        if work.exclusive:  # minutes: nobody waits for its end
            await self._try(job, work, claimed_at)
            return
        async with self._quarantine.enter(suspect=job.lost_leases + 1 >= self._lease.limit > 1):
            begun_at = self._monotonic()
            if not job.lost_leases:
                await self._try(job, work, claimed_at)
            elif await self._renewer.begin(job, self._lease.seconds):
                await self._try(job, work, begun_at)

    async def _try(self, job: Claimed, work: Work, claimed_at: float) -> None:
        time_left = claimed_at + self._lease.seconds - self._monotonic()
        # The job's own provider counts, not the queue that somebody may have moved its message to.
        misplaced = job.queue.name not in self._works or self._works[job.queue.name].slots is not work.slots
        too_late = work.handler.timeout_seconds + self._lease.margin_seconds > time_left
        outcome = NOT_STARTED if self._stopping or work.is_open or too_late or misplaced else await self._handle(job, work)
        if work.gate is not None:
            work.gate.record_outcome(outcome)
        ran = self._monotonic() - claimed_at
        await self._recorder.record(job, outcome, work.policy, ran_seconds=ran)

    async def _handle(self, job: Claimed, work: Work) -> Outcome:
        progress = Progress()
        send = asyncio.ensure_future(work.handler(job, progress))
        assert isinstance(send, asyncio.Task)
        self._sends.add(send)
        try:
            await (self._renewer.keep(job, progress, send, self._lease.seconds) if work.exclusive else asyncio.wait({send}))
        finally:
            self._sends.discard(send)
            send.cancel()  # unless it is done, which it is unless we were cut
        if send.cancelled():
            return work.on_shutdown
        if (error := send.exception()) is not None:
            log.error("handler.crashed", id=str(job.id), version=job.version, exc_info=error)
            return Outcome(Verdict.UNKNOWN, "internal_error")
        return send.result()
