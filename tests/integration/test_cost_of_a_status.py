"""The cost of a status request in calls to Redis and in tasks. A change that raises a number must change it here on purpose."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from infra.redis.status_cache import StatusCache
from jobs.lifecycle import Status
from service import statuses
from tests.support.asgi import api, call
from tests.support.factories import new_id
from tests.support.services import Services

pytestmark = pytest.mark.usefixtures("patient_redis")


class Counted:
    """Counts commands to Redis, and tasks by the names of their coroutines."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.commands: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        send = AbstractConnection.send_command

        async def count(connection: Any, *words: Any, **options: Any) -> None:
            self.commands[str(words[0])] += 1
            await send(connection, *words, **options)

        patch.setattr(AbstractConnection, "send_command", count)
        asyncio.get_running_loop().set_task_factory(self._create)

    def _create(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        self.tasks[work.__qualname__] += 1
        return asyncio.Task(work, loop=loop, **options)


async def test_concurrent_requests_are_one_read_and_no_task_each(
    services: Services, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses, "CACHE_SECONDS", 10.0)
    app = api(services, "postgresql://127.0.0.1:1/none", namespace, auth="off")  # not started: no background task counts
    cache, ids = StatusCache(services.redis, namespace=namespace, ttl_seconds=5), [new_id() for _ in range(64)]
    await cache._redis.mset({f"{namespace}:job:{id_}": f"3 {Status.SENT} message default" for id_ in ids})
    await call(app, f"/message/{ids[0]}/status")  # connects
    counted = Counted(monkeypatch)
    answers = await asyncio.gather(*(call(app, f"/message/{id_}/status") for id_ in ids))
    asyncio.get_running_loop().set_task_factory(None)
    assert answers == [(200, {"status": "sent"})] * len(ids)
    assert counted.commands == {"MGET": 1}
    requests, others = counted.tasks.pop("call"), sum(counted.tasks.values())
    assert requests == len(ids)
    assert others <= 2, counted.tasks  # the batch, and redis-py's send
    await cache.close()
