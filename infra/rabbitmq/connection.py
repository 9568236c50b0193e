"""A connection that is rebuilt whole: whatever is lost (connection, channel, queue), everything on it is made anew.

Plain connections under a loop of our own, not the client's "robust" ones: those restore piece by piece, and a consumer that
looks alive and gets nothing is the most reported failure of systems like ours.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection, FieldValue
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from infra.rabbitmq.topology import Topology, declare

CONNECT_SECONDS = 5.0
HEARTBEAT_SECONDS = 10
_CLOSE_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

log = structlog.get_logger()

# What a lost or refusing broker looks like through aio-pika and aiormq.
BROKER_ERRORS = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)

Session = Callable[[AbstractConnection], Awaitable[None]]


class SessionOver(Exception):
    """Something on the connection was lost; all of it is to be made anew."""


async def keep_connected(url: str, topology: Topology, session: Session, *, name: str) -> None:
    """Run `session` on a connection with the topology declared, again and again, until cancelled.

    The session ends by raising `SessionOver` or an error of the broker. One line says that it is waited for, one that it
    is back; attempts are spaced by exponential backoff with jitter (0.2 s to 5 s).
    """
    pause = _FIRST_PAUSE
    waiting = False
    while True:
        started = asyncio.get_running_loop().time()
        try:
            connection = await connect(url, name)
            try:
                with client_calls():
                    async with asyncio.timeout(CONNECT_SECONDS * 4):
                        await declare(await connection.channel(), topology)
                    log.info("broker.connected", connection=name)
                    waiting = False
                    await session(connection)
            finally:
                await _close(connection)
        except (SessionOver, *BROKER_ERRORS) as error:
            if not waiting:
                log.warning("broker.waiting", connection=name, reason=str(error) or type(error).__name__)
            waiting = True
        if asyncio.get_running_loop().time() - started > 2 * _LONGEST_PAUSE:
            pause = _FIRST_PAUSE
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
        pause = min(_LONGEST_PAUSE, pause * 2)


async def connect(url: str, name: str) -> AbstractConnection:
    """A new connection, called `posthaste <name>` in the management UI.

    Raises:
        BROKER_ERRORS: there is none to be had within 5 s.
    """
    properties: dict[str, FieldValue] = {"connection_name": f"posthaste {name}"}
    try:
        with client_calls():
            async with asyncio.timeout(CONNECT_SECONDS):
                return await aio_pika.connect(url, heartbeat=HEARTBEAT_SECONDS, client_properties=properties)
    except StopAsyncIteration as error:  # how the client says that the broker hung up in mid-handshake
        raise ConnectionResetError("the broker hung up in mid-handshake") from error


@contextmanager
def client_calls() -> Iterator[None]:
    """Turn what the client lets out when a connection dies under it into an error of the broker.

    That is a bare `Exception`, or the cancellation of one of its own inner tasks, to whoever waits for them: unturned, the one
    ends a process of ours, and the other a loop without a word.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ConnectionResetError("the connection died under the call") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionResetError("the connection died under the call") from error


async def _close(connection: AbstractConnection) -> None:
    """Close in an orderly way if the broker plays along; a frozen one must not hold us up."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connection.close()
    except BROKER_ERRORS as error:
        log.debug("broker.close_failed", reason=str(error))
