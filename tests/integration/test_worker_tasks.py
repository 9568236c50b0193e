"""One worker process is made of tasks: each runs once."""

import asyncio
from collections import Counter

from consumers.worker import run_worker
from jobs.model import Kind
from service.provider_settings import ProviderSettings
from service.settings import Settings
from tests.support.services import Services
from tests.support.waiting import until


async def test_a_worker_runs_each_of_its_tasks_once(services: Services, database: str, broker_namespace: str) -> None:
    settings = Settings(
        database_url=database,
        amqp_url=services.amqp,
        redis_url=services.redis,
        namespace=broker_namespace,
        providers={"sandbox": ProviderSettings(url="http://127.0.0.1:9/")},
    )
    stop = asyncio.Event()
    before = asyncio.all_tasks()
    worker = asyncio.create_task(run_worker(settings, stop, frozenset(Kind)))

    def running() -> Counter[str]:
        return Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks() - before)  # type: ignore[union-attr]

    names = {"ProviderPauses.then", "Publisher.run", "EagerPublisher.run", "Reaper.run", "Watchdog.run", "ProviderPauses.run"}
    names |= {"WorkerLock.run"}
    counts = await until(running, lambda counter: names <= set(counter))
    stop.set()
    await worker
    assert {counts[name] for name in names} == {1}
