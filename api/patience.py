"""The edge of HTTP: what is no request, or never comes to be one, is answered with a problem and closed.

uvicorn itself waits for headers as long as they take, keeps as many of them as come, and answers in plain text.
"""

import asyncio
import uuid
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.problems import Problem, describe

HEADER_SECONDS = 10.0  # from a connection's opening, or a request's first byte, to the end of its headers
MAX_HEAD = 64 * 1024  # bytes of request line and headers


class Impatient(HttpToolsProtocol):
    """uvicorn's protocol, with a timer and a limit over each request's headers."""

    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0  # bytes of it so far; None: it is complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        # Looked at afterwards: what came may have completed the headers, and be a body.
        if self._head is not None and self._head > MAX_HEAD and not self.transport.is_closing():
            self._refuse(Problem(431, "headers_too_large", f"Request line and headers must not exceed {MAX_HEAD} bytes."))

    def on_message_begin(self) -> None:
        self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop()
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses: unknown methods, bad framing, two lengths, and the like."""
        self._refuse(Problem(400, "malformed_http", "This is not an HTTP/1.1 request that can be read in one way only."))

    def _refuse(self, problem: Problem) -> None:
        request_id = uuid.uuid4().hex
        body = orjson.dumps(describe(problem) | {"request_id": request_id})
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _begin(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
