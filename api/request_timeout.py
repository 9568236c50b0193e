"""Limits the time and the header size of requests, and answers malformed HTTP with a problem. uvicorn itself does neither."""

import asyncio
import uuid
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.problems import Problem, encode

MAX_HEAD = 64 * 1024  # bytes of request line and headers


class TimeoutProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a timer for each request and a limit for its headers."""

    request_seconds = 10.0  # from a connection's opening, or a request's first byte, to the last byte of its body
    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0  # bytes of request line and headers; None: complete
    _was_paused = False  # reading was paused when the timer last expired

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        # The check follows the parser: these bytes may complete the headers and begin the body.
        if self._head is not None and self._head > MAX_HEAD and not self.transport.is_closing():
            self._reject(Problem(431, "headers_too_large", f"Request line and headers must not exceed {MAX_HEAD} bytes."))
        elif self._head and self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._begin()  # empty lines begin no request, and must not keep the connection open

    def on_message_begin(self) -> None:
        self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop()
        super().on_message_complete()
        self._head = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _on_timeout(self) -> None:
        """Close the connection, after a 408 if the answer has not begun."""
        if self.flow.read_paused or self._was_paused:  # the client gets its time when reading resumes
            self._was_paused = self.flow.read_paused
            self._begin()
            return
        answerable = self._head is None and not self.pipeline and not self.cycle.response_started
        if not answerable or self.transport.is_closing():
            self.transport.close()
            return
        self._reject(Problem(408, "too_slow", f"The request did not arrive within {self.request_seconds:g} s."))
        self.cycle.disconnected = True  # the endpoint has no client any more
        self.cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """The parser rejects the request: an unknown method, bad framing, two lengths."""
        self._reject(Problem(400, "malformed_http", "The request is not valid HTTP/1.1, or is ambiguous."))

    def _reject(self, problem: Problem) -> None:
        known_id = self.scope.get("posthaste.request_id") if self._head is None else None
        request_id = str(known_id or uuid.uuid4().hex)
        body = encode(problem, request_id)
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _begin(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.request_seconds, self._on_timeout)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def with_timeout(request_seconds: float) -> type[TimeoutProtocol]:
    """The protocol with this limit. uvicorn takes a class and instantiates it itself."""
    return type("TimeoutProtocol", (TimeoutProtocol,), {"request_seconds": request_seconds})
