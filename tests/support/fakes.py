"""Fakes of the ledger, the status cache and a consumer. The first two pass the contract suites of the real adapters."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

from infra.postgres.transitions.apply import Applied
from infra.postgres.transitions.claim import ClaimRequest
from jobs.model import Claimed, KnownStatus, Transition
from tests.support.factories import applied


@dataclass
class FakeCache:
    """The status cache as a dictionary."""

    values: dict[UUID, KnownStatus] = field(default_factory=dict)

    async def read(self, ids: Sequence[UUID], timeout: float = 1) -> list[KnownStatus | None]:
        return [self.values.get(id_) for id_ in ids]

    async def write(self, entries: Sequence[KnownStatus], timeout: float = 1) -> list[None]:
        for new in entries:
            cached = self.values.get(new.id)
            if time.monotonic() - new.at <= 1.0 and (cached is None or cached.version <= new.version):
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
    """Jobs in memory. A claim and an outcome need the version that they name."""

    jobs: dict[UUID, Claimed] = field(default_factory=dict)

    async def claim(self, requests: Sequence[ClaimRequest], timeout: float = 1) -> list[Claimed | None]:
        return [self._advance(request) for request in requests]

    async def apply(self, transitions: Sequence[Transition], timeout: float = 1) -> list[Applied | None]:
        return [None if (job := self._advance(t)) is None else applied(job, t.to) for t in transitions]

    def _advance(self, step: ClaimRequest | Transition) -> Claimed | None:
        job = self.jobs.get(step.id)
        if job is None or job.version != step.version:
            return None
        self.jobs[job.id] = replace(job, version=job.version + 1, token=step.token)
        return self.jobs[job.id]
