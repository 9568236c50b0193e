"""The provider of the comparison: a process that answers each message after 2 ms and records when it arrived.

`POST /message {"destination", "body"}` answers 200. `GET /arrivals` maps each body to its arrivals, in seconds of the
machine's monotonic clock. `GET /count` counts the distinct bodies. `DELETE /arrivals` forgets all.
"""

import asyncio
import sys
import time
from typing import cast

import httptools
import orjson
import uvloop

DELAY_SECONDS = 0.002
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK"
_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Arrivals:
    """The times at which each body arrived."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def record(self, message: bytes) -> None:
        self.times.setdefault(orjson.loads(message)["body"], []).append(time.monotonic())


class Connection(asyncio.Protocol):
    """One connection; httptools calls the methods that begin with `on_`."""

    def __init__(self, arrivals: Arrivals):
        self._arrivals = arrivals
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._url, self._body = b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._body = b"", b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == b"/message":
            self._arrivals.record(self._body)
            self._loop.call_later(DELAY_SECONDS, self._transport.write, _OK)
        elif self._parser.get_method() == b"DELETE":
            self._arrivals.times = {}
            self._transport.write(_OK)
        else:
            answer = orjson.dumps(len(self._arrivals.times) if self._url == b"/count" else self._arrivals.times)
            self._transport.write(_JSON % (len(answer), answer))


async def serve(port: int) -> None:
    """Serve on loopback until cancelled."""
    arrivals = Arrivals()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(arrivals), "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
