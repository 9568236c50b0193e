"""The heartbeat: a file that a healthy worker or relay touches. A container's health check reads its age."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from infra.errors import Transient

log = structlog.get_logger()

BEAT_SECONDS = 1.0
CALL_SECONDS = 5.0


class Heartbeat:
    """Touches `file` every second while RabbitMQ is connected and Postgres answers. Without a file it does nothing."""

    def __init__(
        self,
        file: Path | None,
        is_connected: Callable[[], bool],
        postgres: Callable[[float], Awaitable[object]],
    ):
        self._file = file
        self._is_connected = is_connected
        self._postgres = postgres

    async def run(self) -> None:
        """Touch the file until cancelled."""
        while self._file is not None:
            await self.beat(self._file)
            await asyncio.sleep(BEAT_SECONDS)

    async def beat(self, file: Path) -> None:
        """Touch the file if RabbitMQ is connected and Postgres answers."""
        if not self._is_connected():
            return
        try:
            await self._postgres(CALL_SECONDS)
            await asyncio.to_thread(file.touch)
        except (Transient, OSError) as error:
            log.debug("heartbeat.missed", reason=str(error))
