"""Request ids and security headers, for every request."""

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Answers are data. Browsers must not execute, frame or sniff them; caches must not store them.
_SECURITY = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class Headers:
    """Gives each request an id: the client's `X-Request-ID` if it is valid, else a new one. The answer repeats it.

    It adds the security headers that an endpoint has not set itself.
    """

    _VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = client_id if self._VALID_ID.fullmatch(client_id) else uuid.uuid4().hex.encode()
        scope["posthaste.request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                security = [(name, value) for name, value in _SECURITY.items() if name not in names]
                message["headers"] = [*message["headers"], *security, (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)
