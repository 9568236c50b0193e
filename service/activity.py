"""The activity of one process: counts in memory, which a loop adds to Redis every two seconds.

Counting costs no I/O. Without Redis the counts of that time are lost; nothing else depends on them.
"""

import asyncio
import os
import socket
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4

import orjson

from infra.errors import Transient
from infra.logs import OutageLog
from jobs.lifecycle import Status
from jobs.model import Kind

REPORT_SECONDS = 2.0
LEAVE_SECONDS = 0.5
# The upper bounds of the times to `sent`, in seconds: each is one and a half times the one before, from 5 ms to an hour.
TIME_BOUNDS = tuple(0.005 * 1.5**step for step in range(35))

ACCEPTED, SENT, FAILED, RETRIED, TIME = "accepted", "sent", "failed", "retried", "time"
_NAMES = {
    Status.SENT: SENT,
    Status.COMPLETED: SENT,
    Status.FAILED: FAILED,
    Status.UNKNOWN: FAILED,
    Status.RETRYING: RETRIED,
}


class Activity:
    """Counts of messages and reports since the last `take`. Callbacks are not counted: they are no work of a client."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._counts = dict.fromkeys((ACCEPTED, SENT, FAILED, RETRIED), 0)
        self._times = [0] * (len(TIME_BOUNDS) + 1)

    def accepted(self) -> None:
        """Count an accepted job."""
        self._counts[ACCEPTED] += 1

    def recorded(self, kind: Kind, status: Status, seconds: float | None) -> None:
        """Count a recorded transition. `seconds`: since the acceptance."""
        name = _NAMES.get(status)
        if name is None or kind is Kind.CALLBACK:
            return
        self._counts[name] += 1
        if name == SENT and seconds is not None:
            self._times[bisect_left(TIME_BOUNDS, seconds)] += 1

    def take(self) -> dict[str, int]:
        """The counts that are not zero, by name; they start again at zero. `time0`, `time1`, …: the times by their bound."""
        counts = {name: count for name, count in self._counts.items() if count}
        counts |= {f"{TIME}{index}": count for index, count in enumerate(self._times) if count}
        self._clear()
        return counts


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The time that `share` of the counted times do not exceed, interpolated within its bounds; None without times."""
    total = sum(counts.values())
    rank, below = share * total, 0
    for index in sorted(counts):
        if counts[index] and below + counts[index] >= rank:
            low = TIME_BOUNDS[index - 1] if index else 0.0
            high = TIME_BOUNDS[min(index, len(TIME_BOUNDS) - 1)]
            return low + (high - low) * (rank - below) / counts[index]
        below += counts[index]
    return None


class Store(Protocol):
    """The part of Redis that a process writes. Both methods raise `Transient`."""

    async def report(self, process_id: str, state: bytes, counts: Mapping[str, int]) -> None: ...
    async def leave(self, process_id: str) -> None: ...


@dataclass(eq=False)
class ActivityReports:
    """Reports the activity and the state of this process. `in_flight`: its jobs in progress; `breakers`: by provider."""

    store: Store
    activity: Activity
    role: str
    in_flight: Callable[[], int] = lambda: 0
    breakers: Callable[[], Mapping[str, str]] = dict
    id: str = field(default_factory=lambda: uuid4().hex)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _outage: OutageLog = field(default_factory=lambda: OutageLog("figures", "rates and processes are not shown"), init=False)

    async def run(self) -> None:
        """Report every two seconds, until cancelled; then remove the process from the figures."""
        try:
            while True:
                await self.report()
                await asyncio.sleep(REPORT_SECONDS)
        finally:
            await self._leave()

    async def report(self) -> None:
        """Report once. The counts are lost if Redis does not answer: repeating them might count them twice."""
        try:
            await self.store.report(self.id, self._state(), self.activity.take())
            self._outage.succeeded()
        except Transient as error:
            self._outage.failed(error)

    def _state(self) -> bytes:
        return orjson.dumps(
            {
                "id": self.id,
                "role": self.role,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started_at": self.started_at,
                "in_flight": self.in_flight(),
                "breakers": dict(self.breakers()),
            }
        )

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.store.leave(self.id)
        except (Transient, TimeoutError) as error:  # its state expires
            self._outage.failed(error)
