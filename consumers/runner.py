"""The runner: decode → claim → acknowledge → slot → handle → record.

RabbitMQ's part ends with the claim. From then on an expired lease recovers a job, never a redelivery. Slots bound the running
jobs; the prefetch only fills them.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import structlog

from consumers.gate import Gate
from consumers.modes import Mode
from consumers.slots import Slots
from infra.postgres.transitions.claim import ClaimRequest
from jobs.model import Claimed, Priority, Progress
from jobs.outcome import NOT_STARTED, UNKNOWN_AT_SHUTDOWN, Outcome, Verdict
from jobs.retry import RetryPolicy
from jobs.wire import Pointer, Undecodable, decode
from service.batching import Batcher
from service.transitions import Recorder

log = structlog.get_logger()

CLAIM_RETRY_SECONDS = 1.0


class Delivery(Protocol):
    @property
    def body(self) -> bytes: ...
    @property
    def queue(self) -> str: ...
    async def ack(self) -> None: ...
    async def reject(self) -> None: ...
    async def nack(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """The handling of one queue's jobs in this process.

    `timeout_seconds`: the longest call of the handler without a renewal of its lease. `mode`: how its jobs share the worker.
    `on_shutdown`: the outcome of an interrupted job. `gate`: the provider's gate.
    """

    handler: Callable[[Claimed, Progress], Coroutine[Any, Any, Outcome]]
    timeout_seconds: float
    policy: RetryPolicy
    slots: Slots
    mode: Mode
    priority: Priority = Priority.NORMAL
    on_shutdown: Outcome = UNKNOWN_AT_SHUTDOWN
    gate: Gate | None = None

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open, or the provider paused: no attempt may begin."""
        return self.gate is not None and self.gate.is_open


@dataclass(eq=False)
class Runner:
    """Executes the deliveries of all queues of one process; `works` by logical queue.

    `margin_seconds`: the time after a handler's timeout for recording the outcome within the lease. `is_locked`: whether the
    worker's lock covers a claim of this instant; see `WorkerLock.covers`.
    """

    works: Mapping[str, Work]
    claims: Batcher[ClaimRequest, Claimed | None]
    recorder: Recorder
    lease_seconds: float
    margin_seconds: float
    monotonic: Callable[[], float] = time.monotonic
    is_locked: Callable[[float], bool] = lambda claimed_at: True
    _stopping: bool = field(default=False, init=False)
    _running: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _calls: set[asyncio.Task[Outcome]] = field(default_factory=set, init=False)

    @property
    def calls(self) -> int:
        """The number of calls in progress."""
        return len(self._calls)

    def dispatch(self, delivery: Delivery) -> None:
        """Start the execution of a delivery; returns at once."""
        task = asyncio.create_task(self._run(delivery))
        self._running.add(task)
        task.add_done_callback(self._finished)

    async def stop(self, grace_seconds: float) -> None:
        """Requeue jobs that have not started. Interrupt the others after the grace, and record their outcomes."""
        self._stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace_seconds)
        for call in self._calls:
            call.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=self.margin_seconds)
        if self._running:
            log.warning(
                "worker.unrecorded",
                jobs=len(self._running),
                reason="Postgres did not answer in time",
                effect="their leases expire",
            )
        for task in self._running:
            task.cancel()

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job.crashed", id=task.get_name(), exc_info=error)

    async def _run(self, delivery: Delivery) -> None:
        """decode → claim's permit → execute"""
        try:
            pointer = decode(delivery.body)
        except Undecodable as error:
            log.warning("delivery.undecodable", queue=delivery.queue, reason=str(error), effect="moved to the dead queue")
            await delivery.reject()
            return
        if task := asyncio.current_task():
            task.set_name(str(pointer.id))
        work = self.works[delivery.queue]
        async with work.slots.claim(work.priority):
            if self._stopping or work.is_open:
                await delivery.nack()
                return
            async with work.mode.reserve(delivery.queue):
                await self._execute(delivery, pointer, work)

    async def _execute(self, delivery: Delivery, pointer: Pointer, work: Work) -> None:
        """claim → acknowledge → slot → handle → record"""
        claimed_at = self.monotonic()
        job = await self._take(delivery, pointer)
        if job is None:
            return
        async with work.mode.isolate(job, claimed_at) as leased_at:
            if leased_at is None:
                return
            async with work.slots.slot(work.priority):
                outcome = await self._handle(job, work) if self._may_begin(job, work, leased_at) else NOT_STARTED
                if work.gate is not None:
                    work.gate.record_outcome(outcome)
            await self.recorder.record(job, outcome, work.policy, ran_seconds=self.monotonic() - leased_at)

    async def _take(self, delivery: Delivery, pointer: Pointer) -> Claimed | None:
        """Claim, then acknowledge. None: the delivery is stale, or requeued. Waits while Postgres is unavailable."""
        try:
            job = await self._claim(pointer)
        except Exception:
            log.exception("claim.failed", id=str(pointer.id), version=pointer.version, effect="requeued")
            await asyncio.sleep(CLAIM_RETRY_SECONDS)
            await delivery.nack()
            return None
        await delivery.ack()
        if job is None:
            log.debug("delivery.stale", id=str(pointer.id), version=pointer.version)
        return job

    async def _claim(self, pointer: Pointer) -> Claimed | None:
        return await self.claims.submit(ClaimRequest(pointer.id, pointer.version, _claim_token(), self.lease_seconds))

    def _may_begin(self, job: Claimed, work: Work, leased_at: float) -> bool:
        """Whether the attempt can end within the lease, at the job's own provider. An operator may have moved the message."""
        is_late = self.monotonic() + work.timeout_seconds + self.margin_seconds > leased_at + self.lease_seconds
        own_work = self.works.get(job.queue.name)
        is_misplaced = own_work is None or own_work.slots is not work.slots
        return self.is_locked(leased_at) and not (self._stopping or work.is_open or is_late or is_misplaced)

    async def _handle(self, job: Claimed, work: Work) -> Outcome:
        progress = Progress()
        call = asyncio.create_task(work.handler(job, progress))
        self._calls.add(call)
        try:
            await work.mode.wait(job, progress, call)
        finally:
            self._calls.discard(call)
            call.cancel()  # no effect on a finished call
        if call.cancelled():
            return work.on_shutdown
        if (error := call.exception()) is not None:
            log.error("handler.crashed", id=str(job.id), version=job.version, exc_info=error)
            return Outcome(Verdict.UNKNOWN, "internal_error")
        return call.result()


def _claim_token() -> UUID:
    """A token that no other claim has. It is no secret, so it needs no bytes of the kernel."""
    return UUID(int=random.getrandbits(128), version=4)
