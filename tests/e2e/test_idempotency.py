"""The Idempotency-Key header: a repeated request makes no second job."""

import asyncio
from typing import Any

import aiohttp
import pytest

from consumers.maintenance import clean
from dev.ports import free_port
from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from infra.postgres.retention import Retention
from infra.postgres.transitions import accept
from tests.support.proxy import executed
from tests.support.stack import MESSAGE, REPORTS, Stack
from tests.support.waiting import eventually


async def _post(
    stack: Stack, key: str, body: Any = MESSAGE, path: str = "/messages", port: int | None = None
) -> tuple[int, dict[str, Any], bool]:
    """Post once; return status, answer, and whether it is marked as a replay."""
    url = f"http://127.0.0.1:{port or stack.port}{path}"
    async with stack.session.post(url, json=body, headers={"Idempotency-Key": key}) as response:
        return response.status, await response.json(), response.headers.get("Idempotent-Replayed") == "true"


@pytest.mark.reuses_stack
async def test_a_request_sent_again_gets_its_first_answer(stack: Stack) -> None:
    first, again = await _post(stack, "k1"), await _post(stack, "k1", {"body": "hello", "destination": "+1"})
    assert first == (202, again[1], False) and again[0] == 202 and again[2]
    await stack.all_become("sent", 1)
    assert (await _post(stack, "k1"))[1] == first[1]
    assert (await stack.provider("/stats"))["raw"] == 1


@pytest.mark.reuses_stack
async def test_a_key_of_another_request_is_refused(stack: Stack) -> None:
    await _post(stack, "k1")
    status, problem, _ = await _post(stack, "k1", {**MESSAGE, "body": "something else"})
    assert (status, problem["code"]) == (422, "idempotency_key_reused")
    assert (await _post(stack, "k1", {}, REPORTS))[0] == 202  # another route, another key
    assert stack.rows("SELECT kind, count(*) FROM jobs GROUP BY kind ORDER BY kind") == [("message", 1), ("report", 1)]


async def test_a_report_sent_again_is_one_report(stack: Stack) -> None:
    first, again = await _post(stack, "r1", {}, REPORTS), await _post(stack, "r1", {}, REPORTS)
    assert (first[1], again[2]) == (again[1], True)


@pytest.mark.reuses_stack
async def test_each_item_of_a_batch_has_the_key_for_itself(stack: Stack) -> None:
    items = [{**MESSAGE, "body": f"{n}"} for n in range(20)]
    _, first, replayed = await _post(stack, "b1", {"messages": items}, "/messages/batch")
    assert not replayed
    _, again, replayed = await _post(stack, "b1", {"messages": items}, "/messages/batch")
    assert (again, replayed) == ({"data": [{**item, "replayed": True} for item in first["data"]]}, True)
    changed = [*items[:19], {**MESSAGE, "body": "changed"}, {**MESSAGE, "body": "new"}]
    _, third, replayed = await _post(stack, "b1", {"messages": changed}, "/messages/batch")
    assert third["data"][:19] == again["data"][:19] and not replayed
    assert third["data"][19]["problem"]["code"] == "idempotency_key_reused"
    assert "id" in third["data"][20]
    assert stack.rows("SELECT count(*) FROM jobs") == [(21,)]


@pytest.mark.reuses_stack
async def test_a_bad_item_does_not_hide_that_the_others_were_replayed(stack: Stack) -> None:
    batch = {"messages": [MESSAGE, {"destination": ""}, MESSAGE]}
    _, first, replayed = await _post(stack, "b1", batch, "/messages/batch")
    assert not replayed and [item.get("replayed") for item in first["data"]] == [None, None, None]
    _, again, replayed = await _post(stack, "b1", batch, "/messages/batch")
    assert replayed and [item.get("replayed") for item in again["data"]] == [True, None, True]
    assert [item.get("id") for item in again["data"]] == [item.get("id") for item in first["data"]]
    _, neither, replayed = await _post(stack, "b2", {"messages": [{"destination": ""}]}, "/messages/batch")
    assert "problem" in neither["data"][0] and not replayed


async def test_two_hundred_equal_requests_at_once_at_two_processes_are_one_job(stack: Stack) -> None:
    port = free_port()
    stack.start("api 2", "api", port=str(port))

    async def listening() -> bool:
        try:
            return (await _post(stack, "warm", port=port))[0] == 202
        except aiohttp.ClientConnectionError:
            return False

    await eventually(listening, bool, 20)
    answers = await asyncio.gather(*(_post(stack, "k1", port=(stack.port, port)[n % 2]) for n in range(200)))
    assert {status for status, _, _ in answers} == {202}
    assert len({answer["id"] for _, answer, _ in answers}) == 1
    assert sum(not replayed for _, _, replayed in answers) == 1
    assert stack.rows("SELECT count(*) FROM jobs") == [(2,)]


async def test_an_answer_lost_with_its_api_is_repeated_by_the_next(stack: Stack) -> None:
    """Postgres commits, its answer is lost, the API dies: the client must retry."""
    stack.proxies["postgres"].cut_on_answer(executed(accept.ACCEPT), times=1000)
    asking = asyncio.create_task(_post(stack, "k1"))
    await eventually(lambda: asyncio.to_thread(stack.rows, "SELECT count(*) FROM jobs"), lambda rows: rows == [(1,)], 10)
    await stack.processes["api"].kill()
    with pytest.raises(aiohttp.ClientError):
        await asking
    stack.proxies["postgres"].cut_on_answer(b"", times=0)
    stack.start("api", "api")
    await stack.until_ready()
    status, answer, _ = await _post(stack, "k1")
    assert stack.rows("SELECT CAST(id AS text) FROM jobs") == [(answer["id"],)] and status == 202


@pytest.mark.reuses_stack
async def test_a_key_that_is_none_is_refused_by_name(stack: Stack) -> None:
    for key in ("", "with space", "x" * 256, "é"):
        status, problem, _ = await _post(stack, key)
        assert (status, problem["errors"][0]["pointer"]) == (422, "Idempotency-Key"), key


async def test_keys_are_forgotten_after_a_day(stack: Stack, database: str) -> None:
    await stack.processes["relay"].kill()  # its own maintenance would delete the key first
    first = (await _post(stack, "old"))[1]["id"]
    await _post(stack, "young")
    stack.rows("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours' WHERE key = 'old'")
    pool = DatabasePool(database, name="test", threads=1)
    assert await clean(Ledger(pool, grace_seconds=1), Retention(pool), {}) == 1
    pool.close()
    assert (await _post(stack, "old"))[1]["id"] != first
    assert (await _post(stack, "young"))[2]
