"""The gate before a provider: whether this process takes and sends its messages now, and how many at once."""

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
    """Turns the consumption of a queue by this process off and on."""

    async def pause(self, queue: str) -> None: ...
    async def resume(self, queue: str) -> None: ...


class Gate:
    """Closed while the provider's breaker is open or an operator has paused it; one at a time while it is half-open.

    While it is closed its queues are not consumed, so that their messages wait in the broker, where everybody can see them.
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
        """Whether nothing may be begun now."""
        return self.state is State.OPEN

    def record_outcome(self, outcome: Outcome) -> None:
        """Learn from what one send came to."""
        before = self._breaker
        self._breaker = before.after(outcome, self._monotonic())
        if self._breaker.until != before.until:
            self._changed.set()

    def pause(self, paused: bool) -> None:
        """Do as the operator says."""
        if paused != self._paused:
            self._paused = paused
            self._changed.set()

    async def run(self) -> None:
        """Consume, or not, as the state of the moment wants it; until cancelled."""
        shown = State.CLOSED
        while True:
            self._changed.clear()
            state = self.state
            if state is not shown:
                await self._turn(shown, state)
                shown = state
            await self._until_change(state)

    async def _turn(self, before: State, state: State) -> None:
        say = log.info if state is State.CLOSED else log.warning
        say("provider.gate", provider=self._provider, state=state, paused=self._paused or None)
        self._slots.limit(1 if state is State.HALF_OPEN else self._slots.count)
        if state is State.OPEN:
            for queue in self._queues:
                await self._switch.pause(queue)
        elif before is State.OPEN:
            for queue in self._queues:
                await self._switch.resume(queue)

    async def _until_change(self, state: State) -> None:
        """Until somebody tells us something, or the open time is over; half-open, the next outcome decides."""
        until = self._breaker.until
        timed = state is State.OPEN and not self._paused and until is not None
        seconds = max(0.0, until - self._monotonic()) if timed and until is not None else None
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return  # the open time is over
