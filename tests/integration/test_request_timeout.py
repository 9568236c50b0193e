"""The request timeout covers the whole request to the last byte of its body, read or unread."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.request_timeout import TimeoutProtocol
from tests.support.waiting import eventually

POST = b"POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
GET = b"GET /answer HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """The protocol with three handlers, in this process."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        routes = [Route(f"/{name}", getattr(self, name), methods=["GET", "POST"]) for name in ("answer", "read", "hang")]
        config = uvicorn.Config(
            Starlette(routes=routes),
            port=0,
            http=TimeoutProtocol,
            ws="none",
            log_config=None,
            lifespan="off",
            server_header=False,
        )
        self.server = uvicorn.Server(config)

    async def answer(self, request: Request) -> Response:
        """Answers at once, and leaves the body unread."""
        return Response("answered", 401)

    async def read(self, request: Request) -> Response:
        return Response(str(len(await request.body())))

    async def hang(self, request: Request) -> Response:
        """Answers when it is released, and leaves the body unread."""
        await self.release.wait()
        return Response("released")

    @property
    def port(self) -> int:
        return int(self.server.servers[0].sockets[0].getsockname()[1])

    @property
    def connection(self) -> TimeoutProtocol:
        (protocol,) = self.server.server_state.connections
        return cast("TimeoutProtocol", protocol)


@asynccontextmanager
async def _serving() -> AsyncIterator[Server]:
    serving = Server()
    task = asyncio.create_task(serving.server._serve())  # without signal handlers
    while not serving.server.started:  # noqa: ASYNC110  it ends or fails within the test's own time
        await asyncio.sleep(0.01)
    try:
        yield serving
    finally:
        serving.release.set()
        serving.server.should_exit = True
        await task


async def _drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    with suppress(OSError):
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)


async def _until_closed(server: Server, first: bytes, piece: bytes) -> bytes:
    """Send some bytes, then drip; return all answers before the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(first)
    dripping = asyncio.create_task(_drip(writer, piece))
    answer = b""
    try:
        async with asyncio.timeout(20):
            with suppress(ConnectionResetError):
                while data := await reader.read(65_536):
                    answer += data
    finally:
        dripping.cancel()
        writer.close()
    return answer


@pytest.mark.parametrize(
    ("first", "piece", "status"),
    [
        (POST % (b"read", 1000), b"x", b"408"),
        (POST % (b"hang", 1000), b"x", b"408"),
        (POST % (b"answer", 1000), b"x", b"401"),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000\r\n\r\n"), b"x", b"401"),
        (POST.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") % b"answer", b"1\r\nx\r\n", b"401"),
        (GET, b"\r\n", b"401"),
        (b"", b"\r\n", b""),
        (b"GET /answer HTTP/1.1\r\nX: ", b"x", b""),
    ],
    ids=["read", "unread", "answered", "GET with a body", "chunks", "empty lines after", "empty lines before", "headers"],
)
async def test_a_dripping_request_is_timed_out(
    monkeypatch: pytest.MonkeyPatch, first: bytes, piece: bytes, status: bytes
) -> None:
    monkeypatch.setattr(TimeoutProtocol, "request_seconds", 0.3)
    async with _serving() as server:
        answer = await _until_closed(server, first, piece)
    assert answer.count(b"HTTP/1.1") == bool(status) and answer.startswith(b"HTTP/1.1 " + status if status else b"")
    assert status != b"408" or (b'"code":"too_slow"' in answer and b"connection: close" in answer)


async def test_a_request_that_has_arrived_may_be_answered_as_late_as_it_takes() -> None:
    async with _serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST % (b"hang", 4) + b"body")

        async def arrived() -> bool:
            return bool(server.server.server_state.connections) and server.connection.cycle is not None

        await eventually(arrived, bool)
        assert server.connection._timer is None
        server.release.set()
        assert (await reader.readuntil(b"released")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_body_that_the_handler_does_not_read_yet_is_not_timed_out() -> None:
    """The second of two pipelined requests waits for the answer to the first: its client is not slow."""
    async with _serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST % (b"hang", 0) + POST % (b"read", 4))

        async def paused() -> bool:
            return bool(server.server.server_state.connections) and server.connection.flow.read_paused

        await eventually(paused, bool)
        for _ in range(2):
            server.connection._on_timeout()
        server.release.set()
        await reader.readuntil(b"released")
        server.connection._on_timeout()  # it has had no time since
        writer.write(b"body")
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200") and await reader.readexactly(1) == b"4"
        writer.close()
