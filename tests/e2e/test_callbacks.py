"""Signed callbacks, on real processes and a real receiver."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from standardwebhooks import WebhookVerificationError

from dev.ports import free_port
from tests.support.hostile_urls import HOSTILE_URLS
from tests.support.receiver import CALLBACKS_ON, OTHER_SECRET, SECRET, Received, Receiver, receiving
from tests.support.services import Services, sql
from tests.support.stack import Stack, running
from tests.support.stacks import Stacks
from tests.support.waiting import eventually

SETTINGS: dict[str, Any] = {**CALLBACKS_ON, "callback_retry_seconds": "[0.2, 0.2, 0.2]"}
JOBS = "/api/2.0/report/jobs"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as listening:
        yield listening


@pytest.fixture
async def stack(stacks: Stacks) -> AsyncIterator[Stack]:
    async with stacks.lent(others={"teller": ("consumers", "callbacks")}, **SETTINGS) as lent:
        yield lent


@asynccontextmanager
async def _running(services: Services, database: str, namespace: str, folder: Path, **settings: str) -> AsyncIterator[Stack]:
    async with running(services, database, namespace, folder, **{**SETTINGS, **settings}) as stack:
        stack.start("teller", "consumers", "callbacks")
        yield stack


async def _received(receiver: Receiver, count: int = 1) -> list[Received]:
    """Wait for this number of requests."""

    async def read() -> list[Received]:
        return list(receiver.received)

    return await eventually(read, lambda received: len(received) >= count, 20)


async def _callbacks(stack: Stack, id_: str, condition: Callable[[list[Any]], bool]) -> list[Any]:
    """Wait until the message's list of callbacks satisfies the condition."""

    async def read() -> list[Any]:
        code, answer = await stack.get(f"/messages/{id_}/callbacks")
        assert code == 200, answer
        return list(answer["data"])

    return await eventually(read, condition, 20)


def _all(status: str) -> Callable[[list[Any]], bool]:
    return lambda callbacks: bool(callbacks) and all(each["status"] == status for each in callbacks)


async def test_a_callback_reports_the_final_status_of_a_message(stack: Stack, receiver: Receiver) -> None:
    labels: dict[str, Any] = {"reference": "order 7", "tags": ["a", "b"], "metadata": {"z": 1, "a": "é"}}
    id_ = await stack.submit(callback_url=receiver.url + "/hook?x=1", **labels)
    (request,) = await _received(receiver)
    event, record = request.verified(), await stack.record(id_)
    assert request.path == "/hook?x=1"
    assert (event["type"], event["timestamp"]) == ("message.sent", record["updated_at"])
    assert event["data"] == {
        "id": id_,
        "status": "sent",
        "sequence": record["version"],
        "reason": None,
        "attempts": 1,
        **labels,
        "created_at": record["created_at"],
        "finished_at": record["finished_at"],
    }
    assert list(event["data"]["metadata"]) == ["z", "a"]
    assert record["callback_url"] == receiver.url + "/hook?x=1"
    (callback,) = await _callbacks(stack, id_, _all("sent"))
    assert (callback["id"], callback["type"], callback["sequence"]) == (request.id, "message.sent", record["version"])
    assert UUID(request.id).version == 7
    with pytest.raises(WebhookVerificationError):
        request.verified(OTHER_SECRET)


async def test_a_failed_callback_is_retried_under_the_same_id(stack: Stack, receiver: Receiver) -> None:
    receiver.answers = [500, 302]
    id_ = await stack.submit(callback_url=receiver.url)
    requests = await _received(receiver, 3)
    assert len({each.id for each in requests}) == 1 and len({each.body for each in requests}) == 1
    assert [each.verified()["type"] for each in requests] == ["message.sent"] * 3
    (callback,) = await _callbacks(stack, id_, _all("sent"))
    assert callback["attempts"] == 3
    assert len(receiver.received) == 3


async def test_a_receiver_that_asks_to_be_called_again_at_once_is_called_after_a_growing_pause(
    stack: Stack, receiver: Receiver
) -> None:
    async def at_once(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "0"})

    receiver.answers = [at_once] * 2
    id_ = await stack.submit(callback_url=receiver.url)
    (callback,) = await _callbacks(stack, id_, _all("sent"))
    assert callback["attempts"] == 1  # deferrals are not charged
    ends = f"SELECT extract(epoch FROM ended_at) FROM attempts WHERE job_id = '{callback['id']}' ORDER BY n"
    first, second, third = (float(str(end)) for (end,) in stack.rows(ends))
    assert second - first > 0.9 and third - second > 1.9


async def test_a_receiver_that_answers_gone_gets_no_more_callbacks(stack: Stack, receiver: Receiver) -> None:
    receiver.answer = 410
    id_ = await stack.submit(callback_url=receiver.url)
    (callback,) = await _callbacks(stack, id_, _all("failed"))
    assert (callback["reason"], callback["attempts"], len(receiver.received)) == ("http_410", 1, 1)


async def test_a_dead_callback_is_requeued_by_the_tool(stack: Stack, receiver: Receiver) -> None:
    receiver.answer = 500
    id_ = await stack.submit(callback_url=receiver.url)
    (callback,) = await _callbacks(stack, id_, _all("failed"))
    assert (callback["reason"], callback["attempts"]) == ("attempts_exhausted", 4)
    assert await eventually(lambda: stack.ready("callbacks.dead"), lambda ready: ready == 1, 20)
    code, listed = await stack.get("/dead-letters?kind=callback")
    assert code == 200 and [each["id"] for each in listed["data"]] == [callback["id"]]
    receiver.answer = 204
    done = await stack.command("dead-letters", "requeue", "--kind", "callback", "--yes")
    assert done.returncode == 0, done.stderr
    await _callbacks(stack, id_, _all("sent"))
    assert len({each.id for each in receiver.received}) == 1  # unchanged by a requeue, so that a receiver can deduplicate


async def test_each_final_status_has_a_callback_in_order_of_its_sequence(stack: Stack, receiver: Receiver) -> None:
    await stack.faults(fail=1, fail_status=400)
    failing = [await stack.submit(callback_url=receiver.url) for _ in range(2)]
    await _distinct(receiver, 2)
    await stack.faults(fail=0)
    requeued, discarded = failing
    for command, id_ in (("requeue", requeued), ("discard", discarded)):
        done = await stack.command("dead-letters", command, "--id", id_, "--yes")
        assert done.returncode == 0, done.stderr
    events = [each.verified() for each in await _distinct(receiver, 4)]
    callbacks = {id_: [(e["data"]["sequence"], e["type"]) for e in events if e["data"]["id"] == id_] for id_ in failing}
    assert callbacks[requeued] == [(3, "message.failed"), (6, "message.sent")]
    assert callbacks[discarded] == [(3, "message.failed"), (4, "message.discarded")]


async def _distinct(receiver: Receiver, count: int) -> list[Received]:
    """Wait for the first requests of this number of callbacks; one that timed out is repeated under its id."""

    async def read() -> list[Received]:
        first: dict[str, Received] = {}
        for each in receiver.received:
            first.setdefault(each.id, each)
        return list(first.values())

    return await eventually(read, lambda received: len(received) >= count, 20)


async def test_callbacks_report_the_final_statuses_of_reports(stack: Stack, receiver: Receiver) -> None:
    stack.start("reporter", "consumers", "reports")
    path = f"{stack.base}/api/2.0/report/posts"
    async with stack.session.post(path, json={"callback_url": receiver.url}) as response:
        assert response.status == 202
        id_ = (await response.json())["id"]
    event = (await _received(receiver))[0].verified()
    assert (event["type"], event["data"]["id"], event["data"]["status"]) == ("report.completed", id_, "completed")
    code, answer = await stack.get(f"{JOBS}/{id_}/callbacks")
    assert code == 200 and [each["type"] for each in answer["data"]] == ["report.completed"]
    code, state = await stack.get(f"{JOBS}/{id_}")
    assert (state["callback_url"], state["links"]["callbacks"]) == (receiver.url, f"{JOBS}/{id_}/callbacks")


async def test_a_callback_is_no_message_to_anybody(stack: Stack, receiver: Receiver) -> None:
    """A receiver knows the callback's id, and no route of messages or reports accepts it."""
    await stack.submit(callback_url=receiver.url)
    (request,) = await _received(receiver)
    for path in (
        f"/message/{request.id}/status",
        f"/messages/{request.id}",
        f"/messages/{request.id}/callbacks",
        f"{JOBS}/{request.id}",
    ):
        assert (await stack.get(path))[0] == 404


async def test_forbidden_callback_urls_are_refused_and_make_no_job(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with _running(services, database, broker_namespace, tmp_path, callback_allow="[]") as stack:
        for url, why in HOSTILE_URLS.items():
            code, problem = await stack.post(callback_url=url)
            assert (code, problem["code"]) == (422, "validation"), url
            (error,) = problem["errors"]
            assert error["pointer"] == "/callback_url", url
            assert why in error["detail"] or error["code"] in ("too_short", "too_long", "nul_character"), url
        none: list[Any] = [7, True, [], {"url": "https://example.com"}, "https://example.com/\ud800"]
        for value in none:
            body = json.dumps({"destination": "+1", "body": "b", "callback_url": value})
            headers = {"Content-Type": "application/json"}
            async with stack.session.post(f"{stack.base}/messages", data=body, headers=headers) as response:
                assert response.status == 422, value
        assert stack.rows("SELECT count(*) FROM jobs") == [(0,)]


async def test_urls_forbidden_since_acceptance_are_refused_when_called(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with running(services, database, broker_namespace, tmp_path, **SETTINGS) as stack:
        stack.start("teller", "consumers", "callbacks", callback_allow="[]")
        id_ = await stack.submit(callback_url=receiver.url)
        (callback,) = await _callbacks(stack, id_, _all("failed"))
        assert (callback["reason"], callback["attempts"], receiver.received) == ("address_refused", 1, [])
        assert await stack.status(id_) == "sent"


async def test_the_installations_default_and_none_at_all(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with _running(services, database, broker_namespace, tmp_path, callback_url=receiver.url + "/default") as stack:
        default = await stack.submit()
        own = await stack.submit(callback_url=receiver.url + "/own")
        none = await stack.submit(callback_url=None)
        for id_ in (default, own, none):
            await stack.becomes(id_, "sent")
        requests = await _received(receiver, 2)
        assert {each.verified()["data"]["id"]: each.path for each in requests} == {default: "/default", own: "/own"}
        assert await _callbacks(stack, none, lambda callbacks: True) == []


async def test_without_secrets_there_are_no_callbacks_and_the_log_says_so(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with _running(services, database, broker_namespace, tmp_path, callback_secrets="[]") as stack:
        code, problem = await stack.post(callback_url=receiver.url)
        assert (code, problem["errors"][0]["code"]) == (422, "callbacks_off")
        assert "POSTHASTE_CALLBACK_SECRETS" in problem["errors"][0]["detail"]
        columns = "(id, kind, destination, body)"
        sql(stack.database, f"INSERT INTO jobs {columns} VALUES (gen_random_uuid(), 'callback', 'https://example.com', '{{}}')")
        await stack.command("rebuild")
        await eventually(lambda: stack.ready("callbacks"), lambda ready: ready == 1, 20)
        result = await stack.command("doctor")
        assert "1 wait in" in result.stdout and "POSTHASTE_CALLBACK_SECRETS" in result.stdout


async def test_secrets_are_rotated_under_way(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, receiver: Receiver
) -> None:
    both = json.dumps([OTHER_SECRET, SECRET])
    async with _running(services, database, broker_namespace, tmp_path, callback_secrets=both) as stack:
        await stack.submit(callback_url=receiver.url)
        (request,) = await _received(receiver)
        assert request.verified(SECRET) == request.verified(OTHER_SECRET)
        assert len(request.headers["webhook-signature"].split(" ")) == 2


async def test_one_receiver_that_hangs_does_not_hold_up_the_others(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, receiver: Receiver
) -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    settings: dict[str, Any] = {"callback_concurrency": "4", "callback_retry_seconds": "[300]", "callback_timeout_seconds": "2"}
    async with (
        receiving(answers=[hang] * 200) as tarpit,
        _running(services, database, broker_namespace, tmp_path, **settings) as stack,
    ):
        for _ in range(40):
            await stack.submit(callback_url=tarpit.url)
        well = [await stack.submit(callback_url=receiver.url) for _ in range(10)]
        requests = await _received(receiver, len(well))
        assert {each.verified()["data"]["id"] for each in requests} == set(well)
        assert len(tarpit.received) < 40  # its host's breaker opened before each was tried


async def _post(stack: Stack, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
    async with stack.session.post(f"{stack.base}/messages", json=body, headers={"Idempotency-Key": key}) as response:
        return response.status, await response.json()


async def test_another_url_is_another_request_under_a_key(stack: Stack, receiver: Receiver) -> None:
    body = {"destination": "+1", "body": "b", "callback_url": receiver.url}
    assert (await _post(stack, body, "k"))[0] == 202
    assert (await _post(stack, body, "k"))[0] == 202
    assert (await _post(stack, {**body, "callback_url": receiver.url + "/other"}, "k"))[0] == 422


async def test_the_command_tests_a_url(stack: Stack, receiver: Receiver) -> None:
    done = await stack.command("callbacks", "test", receiver.url)
    assert (done.returncode, "accepted" in done.stdout) == (0, True), done.stderr
    event = receiver.received[0].verified()
    assert event["type"] == "callback.test"
    receiver.answer = 500
    done = await stack.command("callbacks", "test", receiver.url)
    assert (done.returncode, "http_500" in done.stdout) == (1, True)
    done = await stack.command("callbacks", "test", "http://10.0.0.1/")
    assert done.returncode == 1 and "private" in done.stderr
    done = await stack.command("callbacks", "secret")
    assert done.stdout.startswith("whsec_") and done.returncode == 0


async def test_the_command_listens_verifies_and_prints(stack: Stack, tmp_path: Path) -> None:
    port = free_port()
    listening = stack.start("listener", "cli", "callbacks", "listen", "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    await listening.until_logged("listening")
    id_ = await stack.submit(callback_url=url + "/any/path")
    for text in ("verified: webhook-id", f'"id": "{id_}"', '"type": "message.sent"'):
        await listening.until_logged(text)
    async with stack.session.post(url, data=b"{}", headers={"webhook-id": "x"}) as response:
        assert response.status == 400
    await listening.until_logged("rejected: Missing required headers")
