"""Answers of server-sent events: each one is complete, however it ends."""

from collections.abc import AsyncIterator

import anyio
import pytest
from sse_starlette import ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.types import Message

from api.event_streams import CompleteEventSource

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}
END = {"type": "http.response.body", "body": b"", "more_body": False}


async def _one() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent("one")


async def _endless() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent("one")
    await anyio.sleep_forever()


async def _receive() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


async def _shut_down(monkeypatch: pytest.MonkeyPatch, stuck: bool = False) -> list[Message]:
    """The messages of an endless stream, during which the process shuts down. `stuck`: its client reads nothing more."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        if AppStatus.should_exit and stuck:
            await anyio.sleep_forever()
        messages.append(message)
        if message.get("body"):
            monkeypatch.setattr(AppStatus, "should_exit", True)

    with anyio.fail_after(30):
        await CompleteEventSource(_endless())(SCOPE, _receive, send)
    return messages


async def test_a_shutdown_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    start, event, *rest = await _shut_down(monkeypatch)
    assert start["status"] == 200 and b"one" in event["body"] and rest == [END]


async def test_a_client_that_does_not_read_cannot_stop_a_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.event_streams.END_SECONDS", 0.01)
    assert END not in await _shut_down(monkeypatch, stuck=True)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_answer_that_ends_by_itself_ends_once(method: str) -> None:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    with anyio.fail_after(30):
        await CompleteEventSource(_one())({**SCOPE, "method": method}, _receive, send)
    assert messages.count(END) == 1 and messages[-1] == END
