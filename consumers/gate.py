"""The gate of a provider: whether this process consumes its messages now, and how many at once."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from consumers.slots import Slots
from jobs.breaker import Breaker, BreakerPolicy, State
from jobs.outcome import Outcome

log = structlog.get_logger()


class QueueSwitch(Protocol):
    """Pauses and resumes the consumption of a queue by this process."""

    async def pause(self, queue: str) -> None: ...
    async def resume(self, queue: str) -> None: ...


class Gate:
    """Pauses the provider's queues while its breaker is open, or an operator has paused the provider.

    A half-open breaker admits one message at a time. The messages of paused queues wait in the broker, where operators see
    them.
    """

    def __init__(
        self,
        provider: str,
        queues: Sequence[str],
        slots: Slots,
        switch: QueueSwitch,
        policy: BreakerPolicy,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._provider = provider
        self._queues = queues
        self._slots = slots
        self._switch = switch
        self._breaker = Breaker(policy)
        self._monotonic = monotonic
        self._paused = False
        self._changed = asyncio.Event()

    @property
    def state(self) -> State:
        return State.OPEN if self._paused else self._breaker.state(self._monotonic())

    @property
    def is_open(self) -> bool:
        """Whether no attempt may begin now."""
        return self.state is State.OPEN

    def record_outcome(self, outcome: Outcome) -> None:
        """Count the outcome of one attempt in the breaker."""
        before = self._breaker
        self._breaker = before.after(outcome, self._monotonic())
        if self._breaker.until != before.until:
            self._changed.set()

    def pause(self, paused: bool) -> None:
        """Apply the operator's pause, or its end."""
        if paused != self._paused:
            self._paused = paused
            self._changed.set()

    async def run(self) -> None:
        """Apply each change of state, until cancelled."""
        before = State.CLOSED
        while True:
            self._changed.clear()
            state = self.state
            if state is not before:
                await self._apply(before, state)
                before = state
            await self._wait_for_change(state)

    async def _apply(self, before: State, state: State) -> None:
        log_change = log.info if state is State.CLOSED else log.warning
        log_change("provider.gate", provider=self._provider, state=state, paused=self._paused or None)
        self._slots.limit(1 if state is State.HALF_OPEN else self._slots.count)
        if state is State.OPEN:
            for queue in self._queues:
                await self._switch.pause(queue)
        elif before is State.OPEN:
            for queue in self._queues:
                await self._switch.resume(queue)

    async def _wait_for_change(self, state: State) -> None:
        """Wait for an outcome, a pause, or the end of the breaker's open time."""
        until, seconds = self._breaker.until, None
        if state is State.OPEN and not self._paused and until is not None:
            seconds = max(0.0, until - self._monotonic())
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return  # the open time is over
