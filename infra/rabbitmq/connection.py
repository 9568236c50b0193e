"""A connection that is rebuilt as a whole after the loss of the connection, a channel or a queue.

The connections are plain, not the client's "robust" ones. Robust connections restore each part separately, and may leave a
consumer that receives nothing (docs/decisions/0002).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import aio_pika
import aiormq.connection
import structlog
from aio_pika.abc import AbstractConnection, FieldValue
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from infra.errors import Transient
from infra.rabbitmq.topology import Topology, declare

CONNECT_SECONDS = 5.0
HEARTBEAT_SECONDS = 10
_CLOSE_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

log = structlog.get_logger()

# The client's write queue holds ten frames. A channel of ours writes without waiting: its own batches bound what is queued.
aiormq.connection.Connection.FRAME_BUFFER_SIZE = 0

# The errors of aio-pika and aiormq for a lost connection, or a broker that rejects a request.
BROKER_ERRORS = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)


class _Connection(aio_pika.Connection):
    """Does not close itself when it is collected: Python may collect it in a thread without an event loop."""

    def __del__(self) -> None:
        pass


class BrokerDown(Transient):
    """RabbitMQ is unreachable, or rejects the connection; the message names the reason."""


async def keep_connected(
    url: str, topology: Topology, session: Callable[[AbstractConnection], Awaitable[str]], *, name: str
) -> None:
    """Run `session` on a connection with a declared topology, and reconnect after its end, until cancelled.

    The session returns the reason of its end, or raises a broker error. The beginning and the end of an outage are logged once.
    Attempts are spaced by exponential backoff with jitter (0.2 s to 5 s).
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
                    raise_cancellation()
                    log.info("broker.connected", connection=name)
                    waiting = False
                    reason = await session(connection)
            finally:
                await _close(connection)
        except BROKER_ERRORS as error:
            reason = str(error) or type(error).__name__
        if not waiting:
            log.warning("broker.waiting", connection=name, reason=reason)
        waiting = True
        if asyncio.get_running_loop().time() - started > 2 * _LONGEST_PAUSE:
            pause = _FIRST_PAUSE
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
        pause = min(_LONGEST_PAUSE, pause * 2)


async def _close(connection: AbstractConnection) -> None:
    """Close the connection. The timeout covers a frozen broker."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connection.close()
    except BROKER_ERRORS as error:
        log.debug("broker.close_failed", reason=str(error))


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[AbstractConnection]:
    """A connection for one task. Raises BrokerDown: RabbitMQ is unreachable, or the connection was lost."""
    try:
        with client_calls():
            async with await connect(url, name) as connection:
                yield connection
    except BROKER_ERRORS as error:
        raise BrokerDown(str(error) or type(error).__name__) from error


async def connect(url: str, name: str) -> AbstractConnection:
    """Open a connection, displayed as `posthaste <name>` in the management UI. Raises BROKER_ERRORS, after 5 s at most."""
    properties: dict[str, FieldValue] = {"connection_name": f"posthaste {name}"}
    try:
        with client_calls():
            async with asyncio.timeout(CONNECT_SECONDS):
                return await aio_pika.connect(
                    url, heartbeat=HEARTBEAT_SECONDS, client_properties=properties, connection_class=_Connection
                )
    except StopAsyncIteration as error:  # the client raises this if the handshake is cut
        raise ConnectionResetError("the broker closed the connection during the handshake") from error


def raise_cancellation() -> None:
    """Raise a cancellation that the client swallowed.

    It calls `asyncio.wait_for`, which before Python 3.12 returns a result that arrives together with a cancellation. The task
    would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def client_calls() -> Iterator[None]:
    """Turn the client's undocumented errors after a lost connection into a broker error.

    The client raises a bare `Exception`, or cancels the tasks that its callers await. The first would end the process, and the
    second would end a loop silently.
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
