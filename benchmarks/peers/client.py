"""A client of little cost beside wrk: it knows which messages were accepted, and can bound the backlog, which wrk cannot."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import orjson

CONNECTIONS = 64
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time; httptools calls the methods that begin with `on_`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer] | None = None
        self._parser, self._body = httptools.HttpResponseParser(self), b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._parser.get_status_code(), self._body))

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self._answer = self._loop.create_future()
        self._transport.write(head.encode() + body)
        return await self._answer

    def close(self) -> None:
        self._transport.close()


async def connect(base: str) -> Connection:
    """Connect to a server on loopback."""
    address = urlsplit(base)
    assert address.hostname == "127.0.0.1" and address.port is not None, base
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address.hostname, address.port)
    return connection


class Provider:
    """The arrivals that the provider's process recorded."""

    def __init__(self, base: str):
        self.base = base

    async def count(self) -> int:
        """The number of distinct messages that arrived."""
        return int((await self._request("GET", "/count")).json())

    async def arrivals(self) -> dict[str, list[float]]:
        """The times of each message's arrivals."""
        return dict((await self._request("GET", "/arrivals")).json())

    async def reset(self) -> None:
        await self._request("DELETE", "/arrivals")

    async def _request(self, method: str, path: str) -> Answer:
        connection = await connect(self.base)
        try:
            return await connection.request(method, path)
        finally:
            connection.close()


@dataclass
class Submissions:
    """The messages that were accepted, by body, with the time of their request and their id; and the other answers."""

    sent_at: dict[str, float] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    async def submit(self, connection: Connection, body: str) -> bool:
        """Send one message. Returns whether it was accepted."""
        started = time.monotonic()
        answer = await connection.request("POST", "/messages", orjson.dumps({"destination": "+15550001", "body": body}))
        if answer.status != 202:
            self.others.append(answer.status)
            return False
        self.sent_at[body] = started
        self.ids.append(answer.json()["id"])
        return True


async def one_by_one(base: str, prefix: str, count: int, pause_seconds: float) -> Submissions:
    """Send messages from one connection, each a pause after the answer to the one before."""
    connection, done = await connect(base), Submissions()
    for number in range(count):
        await done.submit(connection, f"{prefix}{number}")
        await asyncio.sleep(pause_seconds)
    connection.close()
    return done


async def bounded_backlog(base: str, provider: Provider, prefix: str, backlog: int, until: Callable[[], bool]) -> Submissions:
    """Send from 64 connections as fast as the worker delivers: at most `backlog` messages are accepted and not delivered.

    The provider's count must be 0 at the start.
    """
    done, places, numbers = Submissions(), asyncio.Semaphore(backlog), iter(range(10**9))

    async def send() -> None:
        connection = await connect(base)
        while True:
            await places.acquire()
            if not await done.submit(connection, f"{prefix}{next(numbers)}"):
                places.release()
                await asyncio.sleep(POLL_SECONDS)

    async def refill() -> None:
        delivered = 0
        while not until():
            await asyncio.sleep(POLL_SECONDS)
            count = await provider.count()
            for _ in range(count - delivered):
                places.release()
            delivered = count

    senders = [asyncio.create_task(send()) for _ in range(CONNECTIONS)]
    with suppress(asyncio.CancelledError):
        await refill()
    for sender in senders:
        sender.cancel()
    results = await asyncio.gather(*senders, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return done
