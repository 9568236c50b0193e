"""Streams and their number for each key: concurrent requests do not pass the limit together."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from api.callers import Caller
from api.console.sessions import Viewer
from api.console.streams import Streams
from api.jobs import Waiting
from api.problems import Problem
from infra.keys import Scope
from jobs.lifecycle import Status
from jobs.model import Kind, KnownStatus
from tests.support.factories import new_id

MOST = 3


@pytest.fixture
def caller() -> Caller:
    return Caller("shop", frozenset({Scope.MESSAGES_READ}), "ph_x")


async def _endless() -> AsyncIterator[ServerSentEvent]:
    await asyncio.Event().wait()
    yield ServerSentEvent("never")


async def _leave(response: Response) -> None:
    """Answer a client that disconnects before it has received anything."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        await response({"type": "http", "method": "GET"}, receive, send)


async def test_a_stream_counts_from_its_opening_to_the_end_of_its_answer(caller: Caller) -> None:
    streams, viewer = Streams(MOST, lambda: False), Viewer(caller, "token")
    opened = [streams.open(viewer, _endless()) for _ in range(MOST)]
    with pytest.raises(Problem) as problem:
        streams.open(viewer, _endless())
    assert problem.value.status == 429 and caller.waiting == MOST
    for response in opened:
        await _leave(response)  # no event starts
    assert caller.waiting == 0
    await _leave(streams.open(viewer, _endless()))


class Statuses:
    """A ledger that answers in the next round of the loop."""

    async def read(self, id_: object) -> KnownStatus:
        await asyncio.sleep(0)
        return KnownStatus(new_id(), 1, Status.QUEUED, Kind.MESSAGE, "shop", 0.0)


async def test_concurrent_streams_of_the_api_do_not_pass_the_limit_together(caller: Caller) -> None:
    statuses: Any = Statuses()
    waiting = Waiting(statuses, statuses, MOST)

    async def opened() -> Response | None:
        scope = {"type": "http", "headers": [], "path_params": {"id": new_id()}, "posthaste.caller": caller}
        try:
            return await waiting.events(Request(scope), Kind.MESSAGE)
        except Problem as problem:
            assert problem.code == "too_many_waiting"
            return None

    answers = await asyncio.gather(*(opened() for _ in range(4 * MOST)))
    streams = [answer for answer in answers if answer is not None]
    assert len(streams) == caller.waiting == MOST
    for response in streams:
        await _leave(response)
    assert caller.waiting == 0
