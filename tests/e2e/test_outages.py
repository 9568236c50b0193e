"""Outages: the table of DESIGN section 1, one test per cell."""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from dev.ports import free_port
from tests.support.processes import Process
from tests.support.services import Services, drop_namespace, with_path
from tests.support.stack import DEFAULT_PATIENCE, Stack, running
from tests.support.waiting import eventually, until


async def test_without_rabbitmq_messages_are_accepted_and_sent_later(stack: Stack) -> None:
    await stack.proxies["rabbitmq"].refuse()
    answers = await asyncio.gather(*(stack.post(f"+{n}") for n in range(1000)))
    await stack.processes["api"].kill()
    stack.start("api2", "api")
    await stack.until_ready()
    answers += await asyncio.gather(*(stack.post(f"+{n}") for n in range(1000, 2000)))
    assert {status for status, _ in answers} == {202}
    assert await stack.status(answers[0][1]["id"]) == "queued"
    code, ready = await stack.get("/health/ready")
    assert (code, ready["checks"]["rabbitmq"]) == (200, "down")
    await stack.proxies["rabbitmq"].accept()
    await stack.all_become("sent", 2000)
    stats = await stack.provider("/stats")
    assert (stats["raw"], stats["unique"]) == (2000, 2000)


async def test_a_broker_connection_that_is_cut_is_rebuilt(stack: Stack) -> None:
    for _ in range(3):
        ids = [await stack.submit() for _ in range(20)]
        stack.proxies["rabbitmq"].cut()
        for id_ in ids:
            await stack.becomes(id_, "sent")


@pytest.mark.parametrize("how", ["refuse", "freeze"])
async def test_without_redis_every_answer_is_correct(stack: Stack, how: str) -> None:
    before = await stack.submit()
    await stack.becomes(before, "sent")
    proxy = stack.proxies["redis"]
    await (proxy.refuse() if how == "refuse" else proxy.freeze())
    during = await stack.submit()
    assert await stack.becomes(before, "sent") == "sent"
    await stack.becomes(during, "sent")
    assert (await stack.get("/health/ready"))[0] == 200
    await (proxy.accept() if how == "refuse" else proxy.thaw())
    after = await stack.submit()
    await stack.becomes(after, "sent")
    output = await until(stack.processes["api"].output, lambda output: output.count("cache.down") == output.count("cache.up"))
    assert output.count("cache.down") <= 1


async def test_without_postgres_answers_are_503_within_a_second_and_work_continues_after(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, accept_timeout_seconds=DEFAULT_PATIENCE) as stack:
        before = await stack.submit()
        await stack.becomes(before, "sent")
        proxy = stack.proxies["postgres"]
        for hurt, heal in ((proxy.refuse, proxy.accept), (proxy.freeze, proxy.thaw)):
            await hurt()
            answers = await asyncio.gather(*(stack.timed_post() for _ in range(10)))
            assert {status for status, _ in answers} == {503}
            # By the accept timeout (0.8 s) and not by the next one, of ten seconds: a slow machine adds some.
            assert max(seconds for _, seconds in answers) < 5
            async with stack.session.post(f"{stack.base}/messages", json={"destination": "+1", "body": "b"}) as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "1"
                assert (await response.json())["code"] == "unavailable"
            assert (await stack.get("/health/ready"))[0] == 503
            assert (await stack.get("/health/live"))[0] == 200
            await heal()
            status, _ = await eventually(lambda: stack.post(), lambda answer: answer[0] == 202, 15)
            assert status == 202
        after = await stack.submit()
        await stack.becomes(after, "sent")


async def test_the_command_sends_one_message_although_postgres_is_down_at_first(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    # The accept timeout must be below the ten seconds for which the command waits.
    async with running(services, database, broker_namespace, tmp_path, accept_timeout_seconds=DEFAULT_PATIENCE) as stack:
        await stack.proxies["postgres"].refuse()
        failed = await stack.command("send", "+1", "hello", "--key", "k1", "--timeout", "0")
        assert failed.returncode == 3 and "503" in failed.stderr and "posthaste send +1 hello --key k1" in failed.stderr
        sending = asyncio.create_task(stack.command("send", "+1", "hello", "--key", "k1", "--timeout", "60"))
        await asyncio.sleep(1)
        await stack.proxies["postgres"].accept()
        sent = await sending
        assert sent.returncode == 0, sent.stderr
        again = await stack.command("send", "+1", "hello", "--key", "k1")
        assert again.stdout == sent.stdout and stack.rows("SELECT count(*) FROM jobs") == [(1,)]


async def test_outcomes_reached_while_postgres_is_down_are_recorded_when_it_is_back(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=0.7)
    ids = [await stack.submit(f"+{n}") for n in range(10)]
    await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] == 10, 10)
    await stack.proxies["postgres"].refuse()
    await eventually(lambda: stack.provider("/stats"), lambda stats: stats["accepted"] == 10, 10)
    await stack.proxies["postgres"].accept()
    for id_ in ids:
        await stack.becomes(id_, "sent")
    assert (await stack.provider("/stats"))["raw"] == 10


async def test_a_worker_killed_in_mid_work_loses_nothing(stack_with_short_leases: Stack) -> None:
    stack = stack_with_short_leases
    stack.start("worker2", "consumers", "messages")
    await stack.faults(slow=1, slow_seconds=1)
    ids = [await stack.submit(f"+{n}") for n in range(40)]
    await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] >= 20, 10)
    await stack.processes["worker"].kill()
    await stack.faults(slow=0)
    for id_ in ids:
        await stack.becomes(id_, "sent", seconds=40)
    stats = await stack.provider("/stats")
    assert stats["unique"] == 40
    assert stats["raw"] <= 40 + 16  # only jobs of the killed worker are sent again


async def test_processes_may_start_in_any_order(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, accept_timeout_seconds=DEFAULT_PATIENCE) as stack:
        for name in ("api", "worker", "relay"):
            await stack.processes[name].kill()
        for proxy in stack.proxies.values():
            await proxy.refuse()
        stack.start("api2", "api")
        stack.start("worker2", "consumers", "messages")
        stack.start("relay2", "consumers", "relay")
        await eventually(lambda: _answer(stack), lambda status: status == 503, 15)
        for proxy in stack.proxies.values():
            await proxy.accept()
        await stack.until_ready()
        id_ = await stack.submit()
        await stack.becomes(id_, "sent")
        for name in ("api2", "worker2", "relay2"):
            assert stack.processes[name].output().count("postgres.waiting") <= 3


async def _answer(stack: Stack) -> int:
    try:
        return (await stack.post())[0]
    except aiohttp.ClientConnectionError:
        return 0


async def test_a_schema_that_is_too_old_ends_each_process_and_says_what_to_do(
    services: Services, tmp_path: Path, namespace: str
) -> None:
    services.sql(f"CREATE DATABASE {namespace}")
    environment = {
        **os.environ,
        "POSTHASTE_DATABASE_URL": with_path(services.database, namespace),
        "POSTHASTE_AMQP_URL": services.amqp,
        "POSTHASTE_REDIS_URL": services.redis,
        "POSTHASTE_NAMESPACE": namespace,
        "POSTHASTE_PORT": str(free_port()),
        "POSTHASTE_PROVIDERS": '{"a": {"url": "http://127.0.0.1:1/"}}',
    }
    try:
        for command in (["api"], ["consumers", "messages"], ["consumers", "relay"]):
            process = Process(command, environment, tmp_path / f"{command[-1]}.log")
            process.start()
            assert await process.wait(15) == 1
            assert "posthaste migrate" in process.output()
    finally:
        services.sql(f"DROP DATABASE {namespace} WITH (FORCE)")
        await drop_namespace(services.amqp, namespace, ["a"])
