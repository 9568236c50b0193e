"""Lists of messages: filters, and pages that stay stable while messages arrive."""

import asyncio
from typing import Any

import pytest

from infra.postgres.job_reads import message_page
from tests.support.services import sql
from tests.support.stack import Stack


async def _pages(stack: Stack, query: str, limit: int = 3) -> list[list[dict[str, Any]]]:
    pages: list[list[dict[str, Any]]] = []
    cursor = ""
    while True:
        code, answer = await stack.get(f"/messages?limit={limit}{query}{cursor}")
        assert code == 200, answer
        pages.append(answer["data"])
        if answer["next_cursor"] is None:
            return pages
        cursor = f"&cursor={answer['next_cursor']}"


async def _ids(stack: Stack, query: str) -> list[str]:
    return [row["id"] for page in await _pages(stack, query) for row in page]


@pytest.mark.reuses_stack
async def test_messages_are_found_by_what_they_have_in_common(stack: Stack) -> None:
    await stack.faults(fail=1, fail_status=400)
    failed = await stack.submit("+2", tags=["a", "b"], reference="r")
    await stack.becomes(failed, "failed")
    await stack.faults(fail=0)
    sent = [await stack.submit("+1", tags=["a"]), await stack.submit("+1", tags=["b", "b", "c"]), await stack.submit("+3")]
    for id_ in sent:
        await stack.becomes(id_, "sent")
    newest_first = [*reversed(sent), failed]
    expected = {
        "": newest_first,
        "&status=sent": newest_first[:3],
        "&status=failed": [failed],
        "&status=queued": [],
        "&destination=%2B1": [sent[1], sent[0]],
        "&tag=a": [sent[0], failed],
        "&tag=b": [sent[1], failed],
        "&tag=c": [sent[1]],
        "&tag=nothing": [],
        "&reference=r": [failed],
        "&tag=b&status=sent": [sent[1]],
        "&tag=a&destination=%2B2&reference=r&status=failed": [failed],
        "&tag=a&destination=%2B3": [],
    }
    for query, ids in expected.items():
        assert await _ids(stack, query) == ids, query
    _, answer = await stack.get("/messages?limit=1&tag=c")
    (row,) = answer["data"]
    record = await stack.record(sent[1])
    assert row == {name: record[name] for name in row} and "body" not in row


@pytest.mark.reuses_stack
async def test_pages_stay_what_they_are_while_messages_come_in(stack: Stack) -> None:
    first = [await stack.submit(tags=["t"]) for _ in range(10)]
    _, answer = await stack.get("/messages?limit=4&tag=t")
    ids = [row["id"] for row in answer["data"]]
    while answer["next_cursor"]:
        await asyncio.gather(*(stack.submit(tags=["t"]) for _ in range(5)))
        _, answer = await stack.get(f"/messages?limit=4&tag=t&cursor={answer['next_cursor']}")
        ids += [row["id"] for row in answer["data"]]
    assert ids == list(reversed(first))


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "status=lost", "status=sent&status=failed", "cursor=x", "tag=", "unknown=1", "tag=%00"],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_bad_query_is_named(shared_stack: Stack, query: str) -> None:
    code, problem = await shared_stack.get(f"/messages?{query}")
    assert (code, problem["code"]) == (422, "validation")
    assert problem["errors"][0]["pointer"] == f"?{query.partition('=')[0]}"


async def test_each_filter_is_served_by_its_index(stack: Stack) -> None:
    """With 60,000 messages of two clients, no plan sorts or reads more than a few pages."""
    sql(
        stack.database,
        """
        INSERT INTO jobs (id, client_id, kind, provider, status, destination, body, reference, tags)
        SELECT CAST(lpad(to_hex(n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0') AS uuid),
            CASE WHEN n % 100 = 0 THEN 'small' ELSE 'default' END, 'message', 'sandbox',
            CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'sent' END, 'to ' || n % 500, 'b', 'ref ' || n % 3000, '{}'
        FROM generate_series(1, 60000) n;
        INSERT INTO message_tags SELECT client_id, 'tag ' || substr(destination, 4), id FROM jobs;
        ANALYZE jobs, message_tags;
        """,
    )
    queries: dict[str, dict[str, str]] = {
        "jobs_messages": {},
        "jobs_by_status": {"status": "failed"},
        "jobs_by_destination": {"destination": "to 7"},
        "jobs_by_reference": {"reference": "ref 7"},
        "message_tags_pkey": {"tag": "tag 7"},
    }
    values = {"before": "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "limit": "51"}
    values |= {"status": "'failed'", "destination": "'to 7'", "reference": "'ref 7'", "tag": "'tag 7'"}
    for index, like in queries.items():
        client = "'default'" if like.keys() & {"destination", "reference", "tag"} else "'small'"
        statement = message_page(like).replace(":client_id", client)
        for name, value in values.items():
            statement = statement.replace(f":{name}", value)
        plan = "\n".join(str(line) for (line,) in stack.rows(f"EXPLAIN (ANALYZE, BUFFERS) {statement}"))
        assert index in plan and "Sort" not in plan, plan
