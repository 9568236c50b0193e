"""Two clients: no route returns anything for the other client's ids."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.operations import OPERATIONS
from tests.support.keys import call, create_key, until_keys_required
from tests.support.receiver import CALLBACKS_ON, receiving
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually


@pytest.fixture
async def stack(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(services, database, broker_namespace, tmp_path, **CALLBACKS_ON) as stack:
        stack.start("others", "consumers", "reports", "callbacks")
        yield stack


async def _ids(stack: Stack, key: str, url: str) -> dict[str, str]:
    """Create a sent message, a failed one, a report and a callback."""
    ids: dict[str, str] = {}
    message = {"destination": "+1", "body": "secret", "reference": "r", "tags": ["t"], "callback_url": url}
    for name, faults in (("sent", 0.0), ("failed", 1.0)):
        await stack.faults(fail=faults, fail_status=400)
        _, accepted, _ = await call(stack, "POST", "/messages", key, json=message)
        ids[name] = accepted["id"]

        async def status(id_: str = accepted["id"]) -> str:
            return str((await call(stack, "GET", f"/message/{id_}/status", key))[1]["status"])

        await eventually(status, lambda status_now, name=name: status_now == name, 20)  # type: ignore[misc]
    await stack.faults(fail=0)
    _, accepted, _ = await call(stack, "POST", "/api/2.0/report/posts", key, json={"callback_url": url})
    ids["report"] = accepted["id"]

    async def completed() -> str:
        return str((await call(stack, "GET", f"/api/2.0/report/jobs/{accepted['id']}/status", key))[1]["status"])

    await eventually(completed, lambda status_now: status_now == "completed", 20)
    _, callbacks, _ = await call(stack, "GET", f"/messages/{ids['sent']}/callbacks", key)
    ids["callback"] = callbacks["data"][0]["id"]
    return ids


async def test_no_route_shows_or_touches_another_clients_jobs(stack: Stack) -> None:
    owner, stranger = await create_key(stack, "owner"), await create_key(stack, "stranger")
    await until_keys_required(stack)
    async with receiving() as receiver:
        ids = await _ids(stack, owner, receiver.url)
    schedule = {"name": "nightly", "cron": "0 6 * * *"}
    assert (await call(stack, "POST", "/api/2.0/report/schedules", owner, json=schedule))[0] == 201
    walked = set()
    for operation in OPERATIONS:
        if operation.scope is None:
            continue
        walked.add((operation.method, operation.path))
        if "{id}" in operation.path:
            for id_ in ids.values():
                status, problem, _ = await call(stack, operation.method, operation.path.replace("{id}", id_), stranger)
                assert (status, problem["code"]) == (404, "not_found"), (operation.path, id_)
                assert f" has the path /{'api' if operation.path.startswith('/message') else 'messages'}/" in problem["detail"]
        elif "{name}" in operation.path:
            path = operation.path.replace("{name}", "nightly")
            for query, refusal in (("", (404, "not_found")), ("?client=owner", (403, "forbidden"))):
                status, problem, _ = await call(stack, operation.method, path + query, stranger)
                assert (status, problem["code"]) == refusal, (operation.path, query)
        elif operation.method == "GET":
            for query in ("", "?reference=r", "?tag=t", "?destination=%2B1", "?status=failed"):
                status, answer, _ = await call(stack, "GET", operation.path + query, stranger)
                assert status in (200, 422), (operation.path, query)
                assert not any(id_ in json.dumps(answer) for id_ in [*ids.values(), "nightly"]), (operation.path, query)
    for action in ("requeue", "discard"):
        for body in ({}, {"ids": list(ids.values())}, {"filter": {"reference": "r"}}, {"dry_run": True}):
            status, answer, _ = await call(stack, "POST", f"/dead-letters/{action}", stranger, json=body)
            assert status == 200 and not any(answer.values()), (action, body)
    assert len(walked) == sum(operation.scope is not None for operation in OPERATIONS)
    assert stack.rows("SELECT status, count(*) FROM jobs WHERE kind = 'message' GROUP BY status ORDER BY 1") == [
        ("failed", 1),
        ("sent", 1),
    ]
    # The same ids, by whom they belong to; and every client's dead letters by an operator.
    assert (await call(stack, "GET", f"/messages/{ids['failed']}", owner))[0] == 200
    operator = await create_key(stack, "operators", "--scope", "admin")
    _, listed, _ = await call(stack, "GET", "/dead-letters", operator)
    assert [each["id"] for each in listed["data"]] == [ids["failed"]]
    status, answer, _ = await call(stack, "POST", "/dead-letters/requeue", operator, json={"ids": [ids["failed"]]})
    assert answer["requeued"] == [ids["failed"]]


async def test_one_clients_idempotency_keys_are_not_anothers(stack: Stack) -> None:
    one, other = await create_key(stack, "one"), await create_key(stack, "other")
    await until_keys_required(stack)
    ids = []
    for key in (one, other, one, other):
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "k"}
        body = {"destination": "+1", "body": "b"}
        async with stack.session.post(f"{stack.base}/messages", json=body, headers=headers) as response:
            assert response.status == 202
            ids.append((await response.json())["id"])
    assert ids[:2] == ids[2:] and ids[0] != ids[1]
