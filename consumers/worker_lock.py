"""The worker's lock: other processes take its jobs back once the lock is free, so without it nothing new starts."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from consumers.process import every
from infra.errors import Transient
from infra.logs import OutageLog
from infra.postgres.transitions.claim import ClaimRequest
from jobs.model import Claimed


class LockLost(Transient):
    """This worker does not hold its lock."""


@dataclass(eq=False)
class WorkerLock:
    """Acquires the lock, keeps it by a heartbeat, and claims jobs only while it is held.

    `held`: one heartbeat. `claim_jobs`: the ledger's claim under this worker's id. `grace_seconds`: see `Reaper`.
    """

    held: Callable[[], Awaitable[bool]]
    claim_jobs: Callable[[Sequence[ClaimRequest], float], Awaitable[list[Claimed | None]]]
    grace_seconds: float
    monotonic: Callable[[], float] = time.monotonic
    _is_held: bool = field(default=False, init=False)
    _beat_at: float | None = field(default=None, init=False)
    _safe_since: float = field(default=float("-inf"), init=False)

    async def run(self) -> None:
        await every(self.grace_seconds / 4, self.beat, OutageLog("worker_lock", "this worker claims and starts nothing"))

    async def beat(self) -> None:
        """Acquire or keep the lock. Raises `LockLost`, or the errors of `held`."""
        began_at, is_held = self.monotonic(), False
        try:
            is_held = await self.held()
        finally:
            self._is_held = is_held
        if not is_held:  # a lost session of this worker has not ended yet, or a reaper is taking its jobs back
            raise LockLost("another session holds this worker's lock")
        if self._beat_at is not None and self.monotonic() - self._beat_at > self.grace_seconds:
            self._safe_since = self.monotonic()
        self._beat_at = began_at

    async def claim(self, requests: Sequence[ClaimRequest], timeout: float) -> list[Claimed | None]:
        """Claim jobs. Raises `LockLost`, or the errors of the ledger."""
        if not self._is_held:
            raise LockLost("this worker claims nothing without its lock")
        return await self.claim_jobs(requests, timeout)

    def covers(self, claimed_at: float) -> bool:
        """Whether no reaper can have taken back a job that was claimed at this instant: its attempt may begin."""
        return self._is_held and self._safe_since <= claimed_at
