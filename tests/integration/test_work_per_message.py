"""What one message costs the whole system, counted instead of timed: statements, round trips, AMQP writes and tasks.

A change that raises a number must change it here on purpose.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from aiormq.abc import ChannelFrame
from redis.asyncio.connection import AbstractConnection
from starlette.types import ASGIApp, Message

from api.app import create_api
from consumers.worker import run_worker
from dev.stack import local_sandbox, serving
from jobs.model import Kind
from service.provider_settings import ProviderSettings
from service.settings import Settings
from tests.support.services import Services, sql
from tests.support.waiting import eventually

MESSAGE = {"destination": "+15550001", "body": "hello"}

# One message alone: accept, delete of its outbox row, claim, apply. Each is one statement, one transaction and one round trip.
# Redis: one write of the last status, and one of `processing` where the call is not over within 50 ms. AMQP: the publishing and
# the acknowledgement.
ALONE = {"statements": 4, "redis": 2, "amqp": 2}
# aiohttp's writing of a body. Python 3.12 and 3.13 start it without the loop's task factory, so it is not counted there.
WRITES = {} if (3, 12) <= sys.version_info < (3, 14) else {"ClientRequest.write_bytes": 1}
TASKS_ALONE = {
    "Batcher._drain": 4,  # one for each statement
    "EagerPublisher._publish_queue": 1,
    "Runner._run": 1,
    "send_message": 1,  # the handler, which a shutdown interrupts
    **WRITES,
    "Statuses._write": 2,
}
# A batch of one request: its deliveries arrive, and are claimed and recorded, in some batches. A message has no task of its own
# beyond those of its item, its execution, its handler and the client's.
BATCH = 100
BATCH_AT_MOST = {"statements": 40, "redis": 20, "amqp": 30}
TASKS_PER_MESSAGE = {"MessageEndpoints._accept_item", "Runner._run", "send_message", *WRITES}
BATCH_TASKS_BESIDE = 60
SERVER = ("RequestHandler.", "BaseSelectorEventLoop._accept")  # tasks of the provider
SETTLED_SECONDS = 0.1  # the cache is written after the commit


@dataclass
class Counts:
    """Calls by kind, and the tasks by their coroutine."""

    numbers: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)

    def taken(self) -> "Counts":
        """The counts since the last call."""
        result = Counts(self.numbers.copy(), self.tasks.copy())
        self.numbers.clear()
        self.tasks.clear()
        return result


@contextmanager
def _counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    counts = Counts()

    def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            counts.numbers[kind] += 1
            return function(*arguments, **named)

        return call

    def statement(*arguments: Any) -> None:
        if str(arguments[2]).startswith("EXECUTE"):  # the hot statements; the others are periodic
            counts.numbers["statements"] += 1

    def task(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> Any:
        if not coroutine.__qualname__.startswith(SERVER):
            counts.tasks[coroutine.__qualname__] += 1
        return asyncio.Task(coroutine, loop=loop, **named)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted("redis", AbstractConnection.send_packed_command))
    monkeypatch.setattr(ChannelFrame, "__init__", counted("amqp", ChannelFrame.__init__))
    sa.event.listen(sa.Engine, "before_cursor_execute", statement)
    asyncio.get_running_loop().set_task_factory(task)
    try:
        yield counts
    finally:
        asyncio.get_running_loop().set_task_factory(None)
        sa.event.remove(sa.Engine, "before_cursor_execute", statement)


@dataclass
class System:
    """An API and a worker in this process."""

    app: ASGIApp

    async def request(self, method: str, path: str, content: object = None) -> tuple[int, Any]:
        body, answer = json.dumps(content).encode(), bytearray()
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        status, unread = 0, True

        async def receive() -> Message:
            nonlocal unread
            if not unread:
                await asyncio.Event().wait()
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b""}
        await self.app({**scope, "headers": headers, "client": ("127.0.0.1", 1)}, receive, send)
        return status, json.loads(answer)


@asynccontextmanager
async def _system(services: Services, database: str, namespace: str) -> AsyncIterator[System]:
    sandbox = local_sandbox()
    provider = ProviderSettings(url=f"http://127.0.0.1:{sandbox.port}/message")
    settings = Settings(
        database_url=database,
        amqp_url=services.amqp,
        redis_url=services.redis,
        namespace=namespace,
        providers={"sandbox": provider},
        outbox_grace_seconds=30,
    )
    app, _ = create_api(settings, print)
    events: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    stop = asyncio.Event()
    async with serving(sandbox), asyncio.TaskGroup() as group:
        group.create_task(_lifespan(app, events, answers))
        group.create_task(run_worker(settings, stop, frozenset({Kind.MESSAGE})))
        await events.put({"type": "lifespan.startup"})
        await answers.get()
        system = System(app)
        try:
            await eventually(
                lambda: system.request("GET", "/health/ready"), lambda answer: set(answer[1]["checks"].values()) == {"up"}
            )
            yield system
        finally:
            stop.set()
            await events.put({"type": "lifespan.shutdown"})


async def _lifespan(app: ASGIApp, events: "asyncio.Queue[Message]", answers: "asyncio.Queue[Message]") -> None:
    await app({"type": "lifespan", "state": {}}, events.get, answers.put)


async def test_the_work_for_one_message_and_for_a_batch(
    services: Services, database: str, broker_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _system(services, database, broker_namespace) as system:
        await _send(system, database, [MESSAGE])  # connects and prepares
        with _counting(monkeypatch) as counts:
            alone = []
            for _ in range(9):
                counts.taken()
                await _send(system, database, [MESSAGE])
                alone.append(counts.taken())
            counts.taken()
            await _send(system, database, [MESSAGE] * BATCH)
            batch = counts.taken()
    # The minimum leaves out what periodic work, and a Redis that answers late, add now and then.
    numbers = {kind: min(each.numbers[kind] for each in alone) for kind in ("statements", "redis", "amqp")}
    tasks = {name: min(each.tasks[name] for each in alone) for name in {name for each in alone for name in each.tasks}}
    assert {kind: numbers[kind] for kind in ("statements", "amqp")} == {kind: ALONE[kind] for kind in ("statements", "amqp")}
    assert 1 <= numbers["redis"] <= ALONE["redis"]
    writes = tasks.pop("Statuses._write")
    assert 1 <= writes <= TASKS_ALONE["Statuses._write"]
    assert {name: count for name, count in tasks.items() if count} | {"Statuses._write": 2} == TASKS_ALONE
    assert all(batch.numbers[kind] <= most for kind, most in BATCH_AT_MOST.items()), batch.numbers
    assert {name for name, count in batch.tasks.items() if count >= BATCH} == TASKS_PER_MESSAGE
    assert sum(count for name, count in batch.tasks.items() if name not in TASKS_PER_MESSAGE) <= BATCH_TASKS_BESIDE, batch.tasks


async def _send(system: System, database: str, messages: list[dict[str, str]]) -> None:
    """Submit messages, as a batch if there are several; wait until all are sent and their outbox rows are deleted."""
    content = messages[0] if len(messages) == 1 else {"messages": messages}
    status, answer = await system.request("POST", "/messages" if len(messages) == 1 else "/messages/batch", content)
    assert status == 202, answer

    async def is_done() -> bool:
        (row,) = sql(database, "SELECT count(*) FILTER (WHERE status <> 'sent') + (SELECT count(*) FROM outbox) FROM jobs")
        return row == (0,)

    await eventually(is_done, bool)
    await asyncio.sleep(SETTLED_SECONDS)
