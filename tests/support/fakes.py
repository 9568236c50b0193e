"""Fakes. Those of the ledger and the status cache pass the same contract suites as the real adapters."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from infra.postgres.transitions.accept import Accepted, KeyReused
from infra.postgres.transitions.apply import Applied, LateAcceptance
from infra.postgres.transitions.claim import ClaimRequest
from jobs.lifecycle import ENDS, Cause, Status, sources
from jobs.model import CALLBACKS, Claimed, KnownStatus, LostLease, NewJob, Progress, Transition
from jobs.wire import Pointer
from tests.support.factories import message


@dataclass
class FakeCache:
    """The status cache as a dictionary."""

    values: dict[UUID, KnownStatus] = field(default_factory=dict)

    async def read(self, ids: Sequence[UUID], timeout: float = 1) -> list[KnownStatus | None]:
        return [self.values.get(id_) for id_ in ids]

    async def write(self, entries: Sequence[KnownStatus], timeout: float = 1) -> list[None]:
        for new in entries:
            held = self.values.get(new.id)
            if time.monotonic() - new.at <= 1.0 and (held is None or held.version <= new.version):
                self.values[new.id] = new
        return [None] * len(entries)


@asynccontextmanager
async def unheard(id_: UUID) -> AsyncIterator[None]:
    """Watch a job while Redis is down."""
    yield


@dataclass
class FakeSwitch:
    """Records the calls to a consumer's queues."""

    calls: list[str] = field(default_factory=list)

    async def pause(self, queue: str) -> None:
        self.calls.append(f"pause {queue}")

    async def resume(self, queue: str) -> None:
        self.calls.append(f"resume {queue}")


@dataclass
class FakeLedger:
    """The ledger as a dictionary of jobs, with the same fences."""

    clock: float = 0.0
    jobs: dict[UUID, Claimed] = field(default_factory=dict)
    statuses: dict[UUID, Status] = field(default_factory=dict)
    leases: dict[UUID, float] = field(default_factory=dict)
    workers: dict[UUID, int | None] = field(default_factory=dict)
    locks: set[int] = field(default_factory=set)  # of living workers
    steps: dict[UUID, Applied] = field(default_factory=dict)
    outbox: dict[Pointer, str] = field(default_factory=dict)
    unstarted: set[UUID] = field(default_factory=set)
    keys: dict[tuple[str, str, str], tuple[str, UUID]] = field(default_factory=dict)
    callback_urls: dict[UUID, str] = field(default_factory=dict)
    callbacks: set[tuple[UUID, int]] = field(default_factory=set)  # final versions that have a callback

    async def accept(self, new: Sequence[NewJob], timeout: float = 1) -> list[Accepted | KeyReused]:
        return [self._accept(each) for each in new]

    def _accept(self, m: NewJob) -> Accepted | KeyReused:
        if m.id in self.jobs:
            return Accepted(m.id, datetime.now(UTC))
        if m.key is not None:
            name = (m.client_id, m.key.route, m.key.key)
            fingerprint, id_ = self.keys.setdefault(name, (m.key.fingerprint, m.id))
            if fingerprint != m.key.fingerprint:
                return KeyReused()
            if id_ != m.id:
                return Accepted(id_, datetime.now(UTC), replayed=True)
        job = Claimed(m.id, 1, m.id, 0, m.client_id, m.queue, m.destination, m.body, m.delivery, 0, 0, 0, 0, 0)
        self.jobs[m.id], self.statuses[m.id] = job, Status.QUEUED
        self.outbox[Pointer(m.id, 1)] = m.queue.name
        if m.callback_url is not None:
            self.callback_urls[m.id] = m.callback_url
        return Accepted(m.id, datetime.now(UTC))

    def _create_callback(self, id_: UUID, version: int, status: Status) -> UUID | None:
        url = self.callback_urls.get(id_)
        if url is None or status not in ENDS:
            return None
        kind = self.jobs[id_].queue.kind
        event = {"type": f"{kind}.{status}", "data": {"id": str(id_), "status": status, "sequence": version}}
        callback = replace(message(url, json.dumps(event)), queue=CALLBACKS)
        self._accept(callback)
        self.callbacks.add((id_, version))
        return callback.id

    async def claim(
        self, requests: Sequence[ClaimRequest], timeout: float = 1, worker_id: int | None = None
    ) -> list[Claimed | None]:
        return [self._claim(request, worker_id) for request in requests]

    def _claim(self, request: ClaimRequest, worker_id: int | None) -> Claimed | None:
        job = self.jobs.get(request.id)
        if job is not None and job.token == request.token:
            is_held = job.version == request.version + 1 and self.statuses[job.id] is Status.PROCESSING
            return job if is_held else None
        if job is None or job.version != request.version or self.statuses[job.id] not in sources(Cause.CLAIM):
            return None
        if self.statuses[job.id] in (Status.FAILED, Status.UNKNOWN):
            job = self._revise(job)
        job = replace(job, version=job.version + 1, token=request.token)
        self.jobs[job.id], self.statuses[job.id] = job, Status.PROCESSING
        self.leases[job.id], self.workers[job.id] = self.clock + request.lease_seconds, worker_id
        (self.unstarted.add if job.lost_leases else self.unstarted.discard)(job.id)
        return job

    def _revise(self, job: Claimed) -> Claimed:
        """The job in a new revision. After `failed`, the provider receives a new idempotency key."""
        key = job.revision + 1 if self.statuses[job.id] is Status.FAILED else job.key_revision
        return replace(job, revision=job.revision + 1, key_revision=key, attempts=0, tries=0, lost_leases=0)

    async def apply(self, transitions: Sequence[Transition], timeout: float = 1) -> list[Applied | None]:
        return [self._apply(t) for t in transitions]

    def _apply(self, t: Transition) -> Applied | None:
        before = self.steps.get(t.token)
        if before is not None:
            return before if before.status is t.to else None
        job = self.jobs[t.id]
        if (job.version, job.token) != (t.version, t.token) or self.statuses[t.id] is not Status.PROCESSING:
            return None
        if t.cause is Cause.LEASE_LOST and self.leases[t.id] > self.clock and not self.is_orphan(t.id):
            return None
        job = replace(
            job,
            version=job.version + 1,
            attempts=job.attempts + (t.attempt is not None and t.attempt.charged),
            tries=job.tries + (t.attempt is not None),
            lost_leases=job.lost_leases + t.counts_as_lost,
        )
        self.jobs[t.id], self.statuses[t.id] = job, t.to
        if t.queue:
            self.outbox[Pointer(t.id, job.version)] = t.queue
        callback, publish = self._create_callback(t.id, job.version, t.to), t.queue is not None
        self.steps[t.token] = Applied(t.id, job.version, t.to, job.queue.kind, job.client_id, publish, None, callback)
        return self.steps[t.token]

    async def accept_late(self, late: Sequence[LateAcceptance], timeout: float = 1) -> list[Applied | None]:
        return [self._accept_late(each) for each in late]

    def _accept_late(self, late: LateAcceptance) -> Applied | None:
        job, callback = self.jobs[late.id], None
        if job.token == late.token and self.statuses[late.id] in sources(Cause.LATE_ACCEPTANCE):
            callback = self._create_callback(late.id, job.version + 1, Status.SENT)
            self.jobs[late.id], self.statuses[late.id] = replace(job, version=job.version + 1), Status.SENT
            self.outbox = {pointer: queue for pointer, queue in self.outbox.items() if pointer.id != late.id}
        elif job.token != late.token or self.statuses[late.id] is not Status.SENT:
            return None
        version = self.jobs[late.id].version
        return Applied(late.id, version, Status.SENT, job.queue.kind, job.client_id, False, None, callback)

    def requeue(self, letters: Sequence[Pointer]) -> set[UUID]:
        """`DeadLetterStore.requeue`: a letter that is still at its listed version begins a new revision."""
        return {letter.id for letter in letters if self._requeue(letter)}

    def _requeue(self, letter: Pointer) -> bool:
        job = self.jobs[letter.id]
        if job.version != letter.version or self.statuses[letter.id] not in sources(Cause.REQUEUE):
            return False
        job = replace(self._revise(job), version=job.version + 1)
        self.jobs[letter.id], self.statuses[letter.id] = job, Status.QUEUED
        self.outbox = {pointer: queue for pointer, queue in self.outbox.items() if pointer.id != letter.id}
        self.outbox[Pointer(letter.id, job.version)] = job.queue.name
        return True

    async def renew(self, job: Claimed, lease_seconds: float, progress: Progress, timeout: float = 1) -> bool:
        stored = self.jobs[job.id]
        is_held = (stored.version, stored.token) == (job.version, job.token) and self.statuses[job.id] is Status.PROCESSING
        if is_held:
            self.leases[job.id] = self.clock + lease_seconds
            self.unstarted.discard(job.id)
        return is_held

    async def expired_leases(self, limit: int, timeout: float = 1) -> list[LostLease]:
        return [self._lost(id_) for id_ in self._processing() if self.leases[id_] <= self.clock][:limit]

    async def orphans(self, limit: int, timeout: float = 1) -> list[LostLease]:
        leased = [id_ for id_ in self._processing() if self.leases[id_] > self.clock]
        return [replace(self._lost(id_), worker_id=self.workers[id_]) for id_ in leased if self.is_orphan(id_)][:limit]

    def is_orphan(self, id_: UUID) -> bool:
        """Whether the worker that claimed the job is dead."""
        worker_id = self.workers.get(id_)
        return worker_id is not None and worker_id not in self.locks

    def _processing(self) -> list[UUID]:
        return [id_ for id_, status in self.statuses.items() if status is Status.PROCESSING]

    def _lost(self, id_: UUID) -> LostLease:
        job, started = self.jobs[id_], id_ not in self.unstarted
        return LostLease(id_, job.version, job.token, job.queue, job.delivery, job.lost_leases, started)
