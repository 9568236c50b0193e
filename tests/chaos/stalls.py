"""A machine that stood still is a fault too: what was late then was not the service's doing."""

import asyncio
import time

from tests.chaos.evidence import Fault

LOOK_SECONDS = 0.05
STALLED_SECONDS = 0.7


async def watch_stalls(log: list[Fault]) -> None:
    """Note whenever this process, which sleeps most of the time, is not woken for long; until cancelled."""
    while True:
        before = time.time()
        await asyncio.sleep(LOOK_SECONDS)
        if time.time() - before > STALLED_SECONDS:
            log.append(Fault("the machine stood still", "", before, time.time(), repeats=True, stalls=True))
