"""Watches for operator events: the active relay evaluates the ledger, and the workers watch their breakers and the relay."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from consumers.gate import Gate
from consumers.process import every
from infra.errors import Transient
from infra.logs import OutageLog
from infra.postgres.conditions import BreakerReport
from service.figures import LedgerFigures
from service.operator_events import CALL_SECONDS, FRESH_SECONDS, OperatorEvents

EVERY_SECONDS = 2.0
RELAY_SECONDS = 10.0  # without an active relay until it is lost: a standby or a restart takes less


async def watch_ledger(
    events: OperatorEvents,
    sample: Callable[[], Awaitable[LedgerFigures]],
    is_leading: Callable[[], bool],
    contact_seconds: Callable[[], float],
) -> None:
    """Evaluate while this relay is active, until cancelled.

    Workers cannot report their breakers while Postgres is down. So after an outage an evaluation waits until they have.
    """

    async def evaluate() -> None:
        if is_leading():
            figures = await sample()
            if contact_seconds() >= FRESH_SECONDS:
                await events.evaluate(figures)

    await every(EVERY_SECONDS, evaluate, OutageLog("operator_events", "operator events are late"))


@dataclass(eq=False)
class BreakerReports:
    """Reports this worker's failing breakers to the ledger, again and again while there is one."""

    gates: Mapping[str, Gate]
    report: Callable[[BreakerReport, float], Awaitable[None]]
    _reported: set[str] = field(default_factory=set, init=False)  # providers

    async def run(self) -> None:
        await every(EVERY_SECONDS, self.check, OutageLog("operator_breakers", "operator events of breakers are late"))

    async def check(self) -> None:
        """Report if a breaker fails, or did at the last report."""
        failing = {name: gate.turned_seconds for name, gate in self.gates.items() if gate.breaker.is_failing}
        closed = {name: self.gates[name].turned_seconds for name in self._reported - failing.keys()}
        if failing or closed:
            await self.report(BreakerReport(failing, closed), CALL_SECONDS)
            self._reported = set(failing)


@dataclass(eq=False)
class RelayWatch:
    """Sends `relay.lost` once no relay has been active for `seconds`.

    `publish_callbacks` publishes the due outbox rows of callbacks. Without a relay nothing else would publish the event, nor
    repeat its callback after a failed attempt.
    """

    is_active: Callable[[float], Awaitable[bool]]
    events: OperatorEvents
    publish_callbacks: Callable[[], Awaitable[object]]
    seconds: float = RELAY_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    _seen_at: float | None = field(default=None, init=False)

    async def run(self) -> None:
        await every(EVERY_SECONDS, self.check, OutageLog("operator_relay", "a lost relay is not reported"))

    async def check(self) -> None:
        started = self.monotonic()
        try:
            is_active = await self.is_active(CALL_SECONDS)
        except Transient:  # an outage of Postgres frees the lock, and the relay acquires it again
            self._seen_at = None
            raise
        if is_active or self._seen_at is None:
            self._seen_at = started
        elif started - self._seen_at >= self.seconds:
            await self.events.relay_lost()
            await self.publish_callbacks()
