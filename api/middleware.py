"""What every request passes through before the routes."""

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Answers are data: nothing in them is to be run, framed, guessed at or kept by anybody on the way.
_SECURITY = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class Headers:
    """Gives each request an id: the client's own `X-Request-ID` where it is a plain one, else a new one; answers with it.

    And with what keeps a browser from making more of an answer than it is, where a route has not said otherwise.
    """

    _PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,64}")

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if self._PLAIN.fullmatch(given) else uuid.uuid4().hex.encode()
        scope["posthaste.request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name for name, _ in message["headers"]}
                more = [(name, value) for name, value in _SECURITY.items() if name not in said]
                message["headers"] = [*message["headers"], *more, (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)
