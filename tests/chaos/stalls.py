"""Stalls of the machine, recorded as faults: they delay everything."""

import asyncio
import time

from tests.chaos.evidence import Fault

SLEEP_SECONDS = 0.05
STALL_SECONDS = 0.7


async def watch_stalls(log: list[Fault]) -> None:
    """Record each long delay of this process' own wake-up, until cancelled."""
    while True:
        before = time.time()
        await asyncio.sleep(SLEEP_SECONDS)
        if time.time() - before > STALL_SECONDS:
            log.append(Fault("stall of the machine", "", before, time.time(), duplicates_requests=True, delays_visibility=True))
