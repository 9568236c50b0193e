"""Limits answer at once with Retry-After: request rates, waiting clients, the backlog, slow requests."""

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.support.keys import call, create_key, until_keys_required
from tests.support.services import Services
from tests.support.stack import MESSAGE, Stack, running
from tests.support.waiting import eventually


async def test_a_key_that_calls_too_often_gets_a_retry_after(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, rate_per_key="5/10seconds") as stack:
        key, other = await create_key(stack, "shop"), await create_key(stack, "shop")
        await until_keys_required(stack)
        answers = [await call(stack, "GET", "/dead-letters", key) for _ in range(7)]
        assert [status for status, _, _ in answers] == [200] * 5 + [429] * 2
        _, problem, response = answers[-1]
        assert problem["code"] == "rate_limited"
        assert 1 <= int(response.headers["Retry-After"]) <= 10
        assert response.headers["RateLimit-Policy"] == '"key";q=5;w=10'
        assert response.headers["RateLimit"].startswith('"key";r=0;t=')
        assert (await call(stack, "GET", "/dead-letters", other))[0] == 200
        await stack.proxies["redis"].freeze()
        assert (await call(stack, "GET", "/dead-letters", key))[0] == 200  # without Redis no request is limited


async def test_guessing_at_keys_is_limited_and_locks_out_no_valid_key(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, rate_per_address="5/hour") as stack:
        key = await create_key(stack, "shop")
        await eventually(lambda: _status(stack), lambda status: status == 401, 5)
        codes = [await _status(stack) for _ in range(8)]
        assert codes[-1] == 429 and set(codes) <= {401, 429}
        assert (await call(stack, "GET", "/dead-letters", key))[0] == 200


async def _status(stack: Stack, forwarded_for: str = "") -> int:
    headers = {"Authorization": "Bearer ph_guessing_" + "x" * 32} | (
        {"X-Forwarded-For": forwarded_for} if forwarded_for else {}
    )
    async with stack.session.get(f"{stack.base}/dead-letters", headers=headers) as response:
        return response.status


async def test_guesses_count_against_the_address_that_a_trusted_proxy_names(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"rate_per_address": "4/hour", "trusted_proxies": '["127.0.0.1"]'}
    async with running(services, database, broker_namespace, tmp_path, **settings) as stack:
        await create_key(stack, "shop")
        await eventually(lambda: _status(stack, "203.0.113.1"), lambda status: status in (401, 429), 5)
        for _ in range(5):
            last = await _status(stack, "203.0.113.1")
        assert last == 429
        assert await _status(stack, "203.0.113.2") == 401
        assert await _status(stack, "203.0.113.9, 203.0.113.1") == 429  # the proxy's own word is the last
        await stack.processes["api"].kill()
        stack.start("api", "api", trusted_proxies='["198.51.100.0/24"]')
        await stack.until_ready()
        answers = [await _status(stack, f"203.0.113.{n}") for n in range(3, 10)]
        assert answers[0] == 401 and answers[-1] == 429


async def test_waiting_requests_of_a_key_are_bounded(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, waiting_per_key="2") as stack:
        key = await create_key(stack, "shop")
        await until_keys_required(stack)
        await stack.faults(hang=1)
        _, accepted, _ = await call(stack, "POST", "/messages", key, json=MESSAGE)
        headers = {"Authorization": f"Bearer {key}"}
        path = f"{stack.base}/messages/{accepted['id']}/events"
        async with stack.session.get(path, headers=headers) as one, stack.session.get(path, headers=headers) as two:
            for stream in (one, two):
                await stream.content.readline()
            status, problem, _ = await call(stack, "GET", f"/messages/{accepted['id']}/events", key)
            assert (status, problem["code"]) == (429, "too_many_waiting")
            assert (await call(stack, "GET", f"/message/{accepted['id']}/status", key))[0] == 200

        async def room() -> int:
            async with stack.session.get(path, headers=headers) as response:
                return response.status

        await eventually(room, lambda status: status == 200, 20)


async def test_a_full_backlog_is_closed_until_it_has_shrunk(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"backlog_high": "20", "backlog_low": "5"}
    async with running(services, database, broker_namespace, tmp_path, **settings) as stack:
        await stack.processes["worker"].kill()
        answers = [await stack.post() for _ in range(40)]
        assert [status for status, _ in answers] == [202] * 20 + [503] * 20
        assert answers[-1][1]["code"] == "backlog_full"
        started = time.monotonic()
        await stack.post()
        assert time.monotonic() - started < 5  # it did not wait for the accept timeout of ten
        batch = {"messages": [MESSAGE] * 3}
        async with stack.session.post(f"{stack.base}/messages/batch", json=batch) as response:
            assert (response.status, (await response.json())["code"]) == (503, "backlog_full")
        stack.start("worker", "consumers", "messages")
        await eventually(stack.post, lambda answer: answer[0] == 202, 30)
        output = await stack.processes["api"].until_logged("backlog.open")
        assert (output.count("backlog.full"), output.count("backlog.open")) == (1, 1)


async def test_backlogs_are_counted_on_a_connection_of_their_own(stack: Stack) -> None:
    """A count that waits for a lock or a slow disk must not delay the look at revoked keys."""
    await stack.submit()

    async def counting() -> set[object]:
        rows = stack.rows(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE '%count(*)%provider_pauses%' AND query NOT LIKE '%pg_stat_activity%'"  # an ending look of this test
        )
        return {name for (name,) in rows}

    assert await eventually(counting, bool) == {"posthaste api counts"}


async def test_messages_of_a_paused_provider_do_not_count(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"backlog_high": "10", "backlog_low": "5"}
    async with running(services, database, broker_namespace, tmp_path, **settings) as stack:
        await stack.command("providers", "pause", "sandbox")
        for _ in range(25):  # the backlog may seem full until the next count
            await eventually(stack.post, lambda answer: answer[0] == 202, 10)


async def test_a_request_that_does_not_arrive_in_time_is_timed_out(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, request_timeout_seconds="0.5") as stack:
        assert await _answered(stack, b"") == b""
        assert await _answered(stack, b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-Drip: ") == b""
        head = b"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        late = await _answered(stack, head + b"{")
        assert late.startswith(b"HTTP/1.1 408") and b'"code":"too_slow"' in late and b"within 0.5 s" in late


async def _answered(stack: Stack, sent: bytes) -> bytes:
    """Send these bytes; return all answers before the API closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(sent)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    return answer
