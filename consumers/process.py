"""The life of a consumer process: a schema that fits, loops that run until the stop, and a heartbeat."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, NoReturn

import structlog

from infra.errors import Transient
from infra.logs import OutageLog
from infra.postgres import compatibility
from infra.postgres.pool import DatabasePool

log = structlog.get_logger()

BEAT_SECONDS = 1.0
CALL_SECONDS = 5.0

PostgresCheck = Callable[[float], Awaitable[object]]


async def wait_for_schema(pool: DatabasePool, namespace: str, stop: asyncio.Event) -> bool:
    """Wait until Postgres answers and its schema fits this release. False: `stop` was set first.

    Raises:
        SchemaTooOld, ForeignNamespace: the database does not fit.
    """
    check = asyncio.create_task(compatibility.wait_until_fit(pool, namespace, lambda _: None))
    done, pending = await asyncio.wait({check, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if check in done:
        check.result()  # raises its error
    return check in done


async def run_until(
    stop: asyncio.Event, loops: Iterable[Coroutine[Any, Any, None]], shut_down: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run the loops until `stop`. Then shut down while they still run, and cancel them."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        await stop.wait()
        if shut_down is not None:
            await shut_down()
        for task in tasks:
            task.cancel()


async def every(seconds: float, work: Callable[[], Awaitable[object]], outage: OutageLog) -> NoReturn:
    """Repeat the work with pauses of `seconds`, until cancelled. A `Transient` error ends one repetition."""
    while True:
        try:
            await work()
        except Transient as error:
            outage.failed(error)
        else:
            outage.succeeded()
        await asyncio.sleep(seconds)


async def heartbeat(file: Path | None, is_connected: Callable[[], bool], postgres: PostgresCheck) -> None:
    """Touch `file` every second while the process is healthy. A container's health check reads its age."""
    while file is not None:
        await beat(file, is_connected, postgres)
        await asyncio.sleep(BEAT_SECONDS)


async def beat(file: Path, is_connected: Callable[[], bool], postgres: PostgresCheck) -> None:
    """Touch the file if RabbitMQ is connected and Postgres answers."""
    if not is_connected():
        return
    try:
        await postgres(CALL_SECONDS)
        await asyncio.to_thread(file.touch)
    except (Transient, OSError) as error:
        log.debug("heartbeat.missed", reason=str(error))
