"""The vital signs of one process: which services it reaches, and the delay of its event loop."""

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from infra.errors import Transient
from infra.monitoring import metrics
from infra.postgres import compatibility

Check = Callable[[], Awaitable[str | None]]  # the reason why a service is down, else None

CHECK_SECONDS = 2.0
LAG_SECONDS = 0.25


async def failure(check: Awaitable[object]) -> str | None:
    """The reason why a check fails; None if it succeeds."""
    try:
        await check
    except Transient as error:
        return str(error) or type(error).__name__
    return None


def connected(state: asyncio.Event) -> Check:
    """The check of a connection that is kept in the background."""

    async def check() -> str | None:
        return None if state.is_set() else "not connected"

    return check


@dataclass(frozen=True, slots=True)
class Vitals:
    """Measures until cancelled. `checks` by service."""

    checks: Mapping[str, Check]

    async def run(self) -> None:
        metrics.set_build(importlib.metadata.version("posthaste"), compatibility.code_revision())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._check())
            group.create_task(_measure_lag())

    async def _check(self) -> None:
        while True:
            reasons = await asyncio.gather(*(check() for check in self.checks.values()))
            for name, reason in zip(self.checks, reasons, strict=True):
                metrics.DEPENDENCY_UP.labels(name).set(reason is None)
            await asyncio.sleep(CHECK_SECONDS)


async def _measure_lag() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        metrics.LOOP_LAG.observe(max(0.0, loop.time() - due))
