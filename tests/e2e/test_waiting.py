"""Waiting clients: long polls and server-sent events on real processes."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis import Redis

from tests.support.services import Services
from tests.support.stack import REPORTS, Stack, running
from tests.support.waiting import eventually

JOBS = "/api/2.0/report/jobs"


async def _get(
    stack: Stack, path: str, wait: int | str | None = None, etag: str | None = None
) -> tuple[int, Any, "aiohttp.ClientResponse"]:
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    headers |= {} if etag is None else {"If-None-Match": etag}
    async with stack.session.get(stack.base + path, headers=headers) as response:
        return response.status, await response.json() if response.status != 304 else None, response


@asynccontextmanager
async def _events(stack: Stack, path: str, last: int | None = None) -> AsyncIterator[AsyncIterator[tuple[str, str, Any]]]:
    """The events of a stream: name, id, data."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with stack.session.get(stack.base + path, headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"

        async def read() -> AsyncIterator[tuple[str, str, Any]]:
            event: dict[str, str] = {}
            async for line in response.content:
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name:
                    event[name] = value
                elif "data" in event:
                    yield event["event"], event.get("id", ""), json.loads(event["data"])
                    event = {}

        yield read()


async def _all(stack: Stack, path: str, last: int | None = None) -> list[tuple[str, str, Any]]:
    async with _events(stack, path, last) as events:
        return [event async for event in events]


async def _end(stack: Stack, id_: str, etag: str | None = None) -> Any:
    """Long-poll until the final status; return the last answer."""
    while True:
        status, answer, _ = await _get(stack, f"/messages/{id_}/status", wait=10, etag=etag)
        if status == 200 and answer["status"] == "sent":
            return answer


@pytest.mark.reuses_stack
async def test_a_wait_ends_with_the_job(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=1)
    paths = [path.format(await stack.submit()) for path in ("/message/{}/status", "/messages/{}/status", "/messages/{}")]
    for status, answer, response in await asyncio.gather(*(_get(stack, path, wait=14) for path in paths)):
        assert (status, answer["status"]) == (200, "sent")
        assert response.headers["Preference-Applied"] == "wait=14"
        assert response.headers["ETag"] == '"3"'


@pytest.mark.reuses_stack
async def test_with_an_etag_anything_newer_is_news(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=1)
    path, etag = f"/message/{await stack.submit()}/status", '"1"'
    statuses: list[str] = []
    while statuses[-1:] != ["sent"]:
        status, answer, response = await _get(stack, path, wait=10, etag=etag)
        if status == 304:
            continue  # a slow machine
        statuses.append(answer["status"])
        assert int(response.headers["ETag"].strip('"')) > int(etag.strip('"'))
        etag = response.headers["ETag"]
    assert statuses in (["processing", "sent"], ["sent"])
    status, _, response = await _get(stack, path, etag=etag)
    assert (status, response.headers["ETag"]) == (304, etag)
    assert (await _get(stack, path, wait=5, etag='"999"'))[0] == 200  # a version that it never had
    started = time.monotonic()
    assert (await _get(stack, path, wait=30, etag=etag))[0] == 304  # no event follows the final status: the answer is immediate
    assert time.monotonic() - started < 15


async def test_a_wait_in_which_nothing_happens_ends_in_time(stack: Stack) -> None:
    await stack.faults(hang=1)
    id_ = await stack.submit()
    await stack.becomes(id_, "processing")
    await stack.command("providers", "pause", "sandbox")
    await stack.becomes(id_, "queued", "retrying")
    version = (await stack.record(id_))["version"]
    status, _, response = await _get(stack, f"/messages/{id_}/status", wait=1, etag=f'"{version}"')
    assert status in (200, 304)
    status, answer, response = await _get(stack, f"/messages/{id_}/status", wait=1)
    assert (status, answer["status"]) == (200, await stack.status(id_))
    assert response.headers["Preference-Applied"] == "wait=1"


PREFERENCES = {"respond-async, wait=61": "wait=60", "wait=-1": None, "wait=soon": None, 'wait="0"': "wait=0", "waiting=5": None}


@pytest.mark.reuses_stack
async def test_a_preference_is_capped_or_ignored(stack: Stack) -> None:
    await stack.becomes(id_ := await stack.submit(), "sent")
    for prefer, applied in PREFERENCES.items():
        async with stack.session.get(f"{stack.base}/messages/{id_}", headers={"Prefer": prefer}) as response:
            assert (response.status, response.headers.get("Preference-Applied")) == (200, applied), prefer


@pytest.mark.reuses_stack
async def test_waiting_for_a_job_that_does_not_exist_is_404_at_once(stack: Stack) -> None:
    started = time.monotonic()
    missing = "01a1ff6c-bcef-7503-afba-6071d2a10df9"
    for path in (f"/message/{missing}/status", f"/messages/{missing}", f"{JOBS}/{missing}", f"/messages/{missing}/events"):
        assert (await _get(stack, path, wait=30))[0] == 404
    assert time.monotonic() - started < 10


async def test_a_client_waiting_at_an_api_that_ends_is_answered(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=60)
    id_ = await stack.submit()
    await stack.becomes(id_, "processing")
    version = (await stack.record(id_))["version"]
    waiting = asyncio.create_task(_get(stack, f"/messages/{id_}/status", wait=14, etag=f'"{version}"'))
    async with _events(stack, f"/messages/{id_}/events") as events:
        assert (await anext(events))[0] == "status"
        stack.processes["api"].signal(signal.SIGTERM)
        assert (await waiting)[0] in (200, 304)
        assert [event async for event in events if event[2]["status"] == "sent"] == []  # the stream ends, the job has not
    assert await stack.processes["api"].wait() == -signal.SIGTERM  # uvicorn exits by the signal that it received


@pytest.mark.reuses_stack
async def test_events_come_in_order_and_end_with_the_final_one(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=0.5)
    id_ = await stack.submit()
    events = await _all(stack, f"/messages/{id_}/events")
    versions = [int(event_id) for _, event_id, _ in events]
    assert versions == sorted(set(versions)) and versions[-1] == 3
    assert [data["status"] for _, _, data in events][-1] == "sent"
    assert all(data["version"] == int(event_id) and data["id"] == id_ for _, event_id, data in events)


@pytest.mark.reuses_stack
async def test_a_reader_that_reconnects_continues_at_its_last_event(stack: Stack) -> None:
    await stack.becomes(id_ := await stack.submit(), "sent")
    events = await _all(stack, f"/messages/{id_}/events", last=1)
    assert [(name, event_id) for name, event_id, _ in events] == [("status", "3")]
    async with stack.session.get(f"{stack.base}/messages/{id_}/events", headers={"Last-Event-ID": "3"}) as response:
        assert response.status == 204  # at which a browser stops asking


async def test_without_redis_waiting_clients_are_answered_from_the_ledger(stack: Stack) -> None:
    await stack.proxies["redis"].refuse()
    await stack.faults(slow=1, slow_seconds=0.5)
    id_ = await stack.submit()
    answer, events = await asyncio.gather(_end(stack, id_), _all(stack, f"/messages/{id_}/events"))
    assert answer == {"status": "sent"}
    assert events[-1][2]["status"] == "sent"


async def test_a_report_shows_its_progress(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> None:
    async with running(services, database, broker_namespace, tmp_path) as stack:
        stack.start("reporter", "consumers", "reports")
        done = await stack.command("posts", "seed", "--count", "20000", "--users", "50", "--words", "20:40")
        assert done.returncode == 0, done.stderr
        async with stack.session.post(stack.base + REPORTS) as response:
            links = (await response.json())["links"]
        stack.proxies["postgres"].throttle(1_500_000)
        events = await _all(stack, links["events"])
        stack.proxies["postgres"].throttle(0)
        names = [name for name, _, _ in events]
        assert events[-1][2]["status"] == "completed"
        assert "progress" in names
        counts = [data["posts"] for name, _, data in events if name == "progress"]
        assert counts == sorted(counts) and counts[-1] <= 20_000
        status, answer, _ = await _get(stack, links["self"], wait=10)
        assert (status, answer["status"]) == (200, "completed")


async def test_five_hundred_wait_at_once_and_each_hears_of_its_own(stack: Stack) -> None:
    """All waiting clients share two connections to Redis; the proxy counts them."""
    await stack.command("providers", "pause", "sandbox")
    ids = [await stack.submit(f"+{n}") for n in range(300)]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=180)) as session:

        async def poll(id_: str) -> str:
            status = 503  # a slow machine may need more than 0.8 s
            while status == 503:
                async with session.get(f"{stack.base}/messages/{id_}", headers={"Prefer": "wait=60"}) as response:
                    status, answer = response.status, await response.json()
            assert answer["id"] == id_
            return str(answer["status"])

        async def stream(id_: str) -> str:
            events: list[dict[str, str]] = []
            while not events:
                async with session.get(f"{stack.base}/messages/{id_}/events") as response:
                    lines = (await response.text()).splitlines()
                events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
            assert {event["id"] for event in events} == {id_}
            return events[-1]["status"]

        waiting = [asyncio.create_task(poll(id_)) for id_ in ids] + [asyncio.create_task(stream(id_)) for id_ in ids[:200]]

        async def connections() -> int:
            return len(connector._acquired)

        await eventually(connections, lambda count: count == 500, 20)
        await stack.command("providers", "resume", "sandbox")
        assert set(await asyncio.gather(*waiting)) == {"sent"}


@pytest.mark.reuses_stack
async def test_a_cache_that_is_behind_does_not_take_a_client_back(stack: Stack) -> None:
    await stack.becomes(id_ := await stack.submit(), "sent")
    with Redis.from_url(stack.services.redis) as redis:

        async def behind() -> str:
            """After a lost write, the cached status is outdated for seconds at most."""
            redis.set(f"{stack.namespace}:job:{id_}", b"2 processing message default", px=30_000)
            return await stack.status(id_)

        # The ledger answers, and refills the cache, where the cache exceeds its 50 ms.
        await eventually(behind, lambda status: status == "processing")
        assert (await _get(stack, f"/messages/{id_}/status", etag='"3"'))[0] == 304
        assert await _end(stack, id_, etag='"2"') == {"status": "sent"}
