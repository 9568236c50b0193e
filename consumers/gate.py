"""The gate of a provider: whether this process consumes its messages now, and how many at once.

Operators pause providers in the ledger. Every worker applies it within a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consumers.process import every
from consumers.slots import Slots
from infra.logs import OutageLog
from jobs.breaker import Breaker, State
from jobs.outcome import Outcome

log = structlog.get_logger()

POLL_SECONDS = 0.5


class QueueSwitch(Protocol):
    """Pauses and resumes the consumption of a queue by this process."""

    async def pause(self, queue: str) -> None: ...
    async def resume(self, queue: str) -> None: ...


@dataclass(eq=False)
class Gate:
    """Pauses the provider's queues while its breaker is open, or an operator has paused the provider.

    A half-open breaker admits one message at a time. The messages of paused queues wait in the broker, where operators see
    them.
    """

    provider: str
    queues: Sequence[str]
    slots: Slots
    switch: QueueSwitch
    breaker: Breaker
    monotonic: Callable[[], float] = time.monotonic
    _paused: bool = field(default=False, init=False)
    _turned_at: float = field(default=float("-inf"), init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def turned_seconds(self) -> float:
        """Since failures last opened the breaker, or since the answered call that closed it."""
        return self.monotonic() - self._turned_at

    @property
    def state(self) -> State:
        return State.OPEN if self._paused else self.breaker.state(self.monotonic())

    @property
    def is_open(self) -> bool:
        """Whether no attempt may begin now."""
        return self.state is State.OPEN

    def record_outcome(self, outcome: Outcome) -> None:
        """Count the outcome of one attempt in the breaker."""
        before, now = self.breaker, self.monotonic()
        self.breaker = before.after(outcome, now)
        if self.breaker.openings != before.openings:
            self._turned_at = now
        if self.breaker.until != before.until:
            self._changed.set()

    def pause(self, paused: bool) -> None:
        """Apply the operator's pause, or its end."""
        if paused != self._paused:
            self._paused = paused
            self._changed.set()

    async def run(self) -> None:
        before = State.CLOSED
        while True:
            self._changed.clear()
            state, until = self.state, self.breaker.until
            if state is not before:
                await self._apply(before, state)
            before = state
            is_timed = state is State.OPEN and not self._paused
            seconds = until - self.monotonic() if is_timed and until is not None else None
            with suppress(TimeoutError):  # the open time of the breaker is over
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def _apply(self, before: State, state: State) -> None:
        log_change = log.info if state is State.CLOSED else log.warning
        log_change("provider.gate", provider=self.provider, state=state, paused=self._paused or None)
        self.slots.limit(1 if state is State.HALF_OPEN else self.slots.count)
        if State.OPEN in (before, state):
            switch = self.switch.pause if state is State.OPEN else self.switch.resume
            for queue in self.queues:
                await switch(queue)


@dataclass(eq=False)
class ProviderPauses:
    """Reads the paused providers periodically and pauses their gates."""

    paused: Callable[[float], Awaitable[frozenset[str]]]
    gates: Mapping[str, Gate]
    _loaded: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """Poll until cancelled. A worker without gates has nothing to pause."""
        if self.gates:
            await every(POLL_SECONDS, self._load, OutageLog("provider_pauses", "the last pauses stay in force"))
        self._loaded.set()

    async def _load(self) -> None:
        paused = await self.paused(4 * POLL_SECONDS)
        for name, gate in self.gates.items():
            gate.pause(name in paused)
        self._loaded.set()

    async def then(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run once the pauses are loaded: a worker that starts must not consume the queues of a paused provider."""
        await self._loaded.wait()
        await run()
