"""Workers and the relay touch a heartbeat file that container health checks read."""

import asyncio
import time
from pathlib import Path

from consumers.process import BEAT_SECONDS
from tests.support.stack import Stack
from tests.support.waiting import eventually


async def test_workers_and_the_relay_beat_while_they_are_connected_and_only_then(stack: Stack) -> None:
    files = {role: stack.folder / f"{role}.heartbeat" for role in ("messages", "reports", "relay")}
    for role, file in files.items():
        stack.start(f"{role} with a heartbeat", "consumers", role, heartbeat_file=str(file))
    for file in files.values():
        await _beats(file)
    for service in ("rabbitmq", "postgres"):
        await stack.proxies[service].refuse()
        for file in files.values():
            # A beat that began before may end now; the next ones do not come.
            await eventually(lambda file=file: _age(file), lambda age: age > 2 * BEAT_SECONDS)  # type: ignore[misc]
        await stack.proxies[service].accept()
        for file in files.values():
            await _beats(file)


async def _beats(file: Path) -> None:
    """Wait for the next beat."""
    now = time.time()
    await eventually(lambda: _touched(file), lambda touched: touched > now, 30)


async def _touched(file: Path) -> float:
    return await asyncio.to_thread(lambda: file.stat().st_mtime if file.exists() else 0.0)


async def _age(file: Path) -> float:
    return time.time() - await _touched(file)
