"""Answers of server-sent events that end completely when the process shuts down."""

import asyncio
from contextlib import suppress

from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

END_SECONDS = 1.0  # for a client that does not read


class CompleteEventSource(EventSourceResponse):
    """`EventSourceResponse` cancels its stream at shutdown. Without the end of the answer, uvicorn would log an error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = False

        async def sent(message: Message) -> None:
            nonlocal is_open
            is_open = message["type"] == "http.response.start" or message.get("more_body", False)
            await send(message)

        await super().__call__(scope, receive, sent)
        if is_open:
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
