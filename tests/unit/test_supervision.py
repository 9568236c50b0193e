"""A failed task is logged and restarted, and counts as down until it has run for a while."""

import asyncio
from dataclasses import dataclass, field

from structlog.testing import capture_logs

from infra.supervision import Supervisor
from tests.support.waiting import eventually


@dataclass
class Loop:
    """A task that fails this number of times, then runs until cancelled."""

    failures: int
    starts: int = 0
    cancelled: bool = False
    running: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        self.starts += 1
        if self.starts <= self.failures:
            raise RuntimeError("can't start new thread")
        self.running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def _supervisor(steady_seconds: float = 3600.0) -> Supervisor:
    return Supervisor(first_pause_seconds=0.001, longest_pause_seconds=0.004, steady_seconds=steady_seconds)


async def test_a_failed_task_is_logged_by_name_and_started_again() -> None:
    loop, supervisor = Loop(failures=4), _supervisor()
    with capture_logs() as logged:
        supervisor.start("keys", loop.run)
        await asyncio.wait_for(loop.running.wait(), 20)
    assert [(line["event"], line["task"], line["restart_seconds"]) for line in logged] == [
        ("task.failed", "keys", pause) for pause in (0.001, 0.002, 0.004, 0.004)
    ]
    assert all("new thread" in str(line["exc_info"]) for line in logged)
    await supervisor.stop()
    assert loop.cancelled and loop.starts == 5


async def test_a_failed_task_is_down_until_it_has_run_for_a_while() -> None:
    failing, well, supervisor = Loop(failures=1), Loop(failures=0), _supervisor()
    supervisor.start("keys", failing.run)
    supervisor.start("events", well.run)
    assert supervisor.down == []
    await asyncio.wait_for(failing.running.wait(), 20)
    assert supervisor.down == ["keys"]
    await supervisor.stop()


async def test_a_task_that_has_run_for_a_while_is_up_again() -> None:
    failing, supervisor = Loop(failures=1), _supervisor(steady_seconds=0.01)
    supervisor.start("keys", failing.run)
    await asyncio.wait_for(failing.running.wait(), 20)

    async def down() -> list[str]:
        return supervisor.down

    await eventually(down, lambda names: names == [])
    await supervisor.stop()


async def test_a_task_that_returns_has_ended() -> None:
    starts = 0

    async def run() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise RuntimeError

    supervisor = _supervisor()
    supervisor.start("schema", run)

    async def ended() -> bool:
        return starts == 2 and not supervisor.down

    await eventually(ended, bool)
    await supervisor.stop()
