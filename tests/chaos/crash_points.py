"""Crash points, a skewed clock and planted bugs, patched into one process of the service.

Only the forked process has the patches; the service itself has no switch for them.
"""

import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from consumers.runner import Runner
from infra.postgres import leadership
from infra.postgres.outbox import Outbox
from infra.rabbitmq import connection
from jobs.model import Claimed
from jobs.outcome import Outcome, Verdict
from service.publishing import EagerPublisher, Outgoing
from service.transitions import Recorder
from tests.chaos.planted import BUGS
from tests.support import forked

BEFORE_CLAIM = "before the claim"
BEFORE_ACK = "after the claim, before the ack"
BEFORE_APPLY = "after the provider's answer, before the apply"
BEFORE_PUBLISH = "after the commit, before the publish"
BEFORE_DELETE = "after the publish, before the outbox delete"
POINTS = {
    "consumer": [BEFORE_CLAIM, BEFORE_ACK, BEFORE_APPLY, BEFORE_PUBLISH, BEFORE_DELETE],
    "api": [BEFORE_PUBLISH, BEFORE_DELETE],
    "relay": [BEFORE_DELETE],
}

HEARTBEAT_SECONDS = 2  # instead of 10: a frozen broker must miss three
IDLE_SECONDS = 3  # instead of 10: a leader must freeze for longer


def become(command: list[str], environment: dict[str, str], log: str, skew_seconds: float, bug: str | None) -> None:
    """Run `python -m command`; die at the point that the file `….crash` beside the log names."""
    _crash_at(Path(log).with_suffix(".crash"))
    connection.HEARTBEAT_SECONDS = HEARTBEAT_SECONDS
    leadership.IDLE_SECONDS = IDLE_SECONDS
    if skew_seconds:
        _skew(skew_seconds)
    if bug is not None:
        BUGS[bug].plant(setattr)
    forked.become(command, environment, log)


def _skew(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + seconds


def _crash_at(order: Path) -> None:
    def reached(point: str) -> None:
        if order.exists() and order.read_text() == point:
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    claim, record, offer, delete = Runner._claim, Recorder.record, EagerPublisher.offer, Outbox.delete

    async def crashing_claim(self: Runner, *arguments: Any) -> Claimed | None:
        reached(BEFORE_CLAIM)
        job = await claim(self, *arguments)
        if job is not None:
            reached(BEFORE_ACK)
        return job

    async def crashing_record(self: Recorder, job: Claimed, outcome: Outcome, *rest: Any, **named: Any) -> None:
        if outcome.verdict is Verdict.ACCEPTED:
            reached(BEFORE_APPLY)
        await record(self, job, outcome, *rest, **named)

    def crashing_offer(self: EagerPublisher, outgoing: Outgoing) -> None:
        reached(BEFORE_PUBLISH)
        offer(self, outgoing)

    async def crashing_delete(self: Outbox, *arguments: Any) -> list[None]:
        reached(BEFORE_DELETE)
        return await delete(self, *arguments)

    _patch(Runner, "_claim", crashing_claim)
    _patch(Recorder, "record", crashing_record)
    _patch(EagerPublisher, "offer", crashing_offer)
    _patch(Outbox, "delete", crashing_delete)


def _patch(owner: type, name: str, function: Callable[..., Awaitable[Any] | None]) -> None:
    setattr(owner, name, function)
