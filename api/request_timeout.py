"""The edge of HTTP: malformed requests are answered with a problem and closed, slow ones are closed.

uvicorn itself waits for a request as long as it takes, keeps as many headers as come, and answers in plain text.
"""

import asyncio
import uuid
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.problems import Problem, describe

MAX_HEAD = 64 * 1024  # bytes of request line and headers


class TimeoutProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a timer over each request, whether its body is read or not, and a limit over its headers."""

    request_seconds = 10.0  # from a connection's opening, or a request's first byte, to the last byte of its body
    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0  # bytes of it so far; None: it is complete
    _excused = False  # the last time that the timer ran out, we were not reading

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
        elif self._head and self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._begin()  # empty lines, which begin no request, keep no connection open

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

    def _time_is_up(self) -> None:
        """Close the connection; a request whose answer has not begun is answered with 408 first."""
        if self.flow.read_paused or self._excused:  # the client gets its time once we read on
            self._excused = self.flow.read_paused
            self._begin()
            return
        answerable = self._head is None and not self.pipeline and not self.cycle.response_started
        if not answerable or self.transport.is_closing():
            self.transport.close()
            return
        self._refuse(Problem(408, "too_slow", f"The request did not arrive within {self.request_seconds:g} s."))
        self.cycle.disconnected = True  # nobody hears the handler any more
        self.cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses: unknown methods, bad framing, two lengths, and the like."""
        self._refuse(Problem(400, "malformed_http", "This is not an HTTP/1.1 request that can be read in one way only."))

    def _refuse(self, problem: Problem) -> None:
        named = self.scope.get("posthaste.request_id") if self._head is None else None
        request_id = named or uuid.uuid4().hex
        body = orjson.dumps(describe(problem) | {"request_id": request_id})
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _begin(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.request_seconds, self._time_is_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def with_timeout(request_seconds: float) -> type[TimeoutProtocol]:
    """The protocol with another limit: uvicorn makes its protocols itself, from a class."""
    return type("TimeoutProtocol", (TimeoutProtocol,), {"request_seconds": request_seconds})
