"""Priority high, batches, and clients' labels of a message."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Services
from tests.support.stack import DEFAULT_PATIENCE, Stack, running
from tests.support.waiting import eventually


async def _batch(stack: Stack, messages: Any) -> tuple[int, Any]:
    async with stack.session.post(f"{stack.base}/messages/batch", json={"messages": messages}) as response:
        return response.status, await response.json()


async def test_high_is_sent_while_many_normal_ones_wait(stack: Stack) -> None:
    await stack.faults(slow=1, slow_seconds=0.2)
    for _ in range(4):
        status, _ = await _batch(stack, [{"destination": f"+{n}", "body": "b"} for n in range(500)])
        assert status == 202
    await eventually(lambda: stack.provider("/stats"), lambda stats: stats["raw"] > 16, 15)
    started = time.monotonic()
    id_ = await stack.submit("+high", priority="high")
    await stack.becomes(id_, "sent")
    assert time.monotonic() - started < 5  # two thousand normal ones take 25 s: it did not wait for them
    assert stack.rows("SELECT count(*) > 1000 FROM jobs WHERE status = 'queued'") == [(True,)]
    assert (await stack.record(id_))["priority"] == "high"


@pytest.mark.reuses_stack
async def test_each_item_of_a_batch_is_judged_by_itself(stack: Stack) -> None:
    good = {"destination": "+1", "body": "one"}
    items = [good, {"destination": ""}, 7, {**good, "provider": "nobody"}, {**good, "body": "two", "priority": "high"}]
    status, answer = await _batch(stack, items)
    assert status == 202
    data = answer["data"]
    assert [item["index"] for item in data] == [0, 1, 2, 3, 4]
    assert [item.get("status") for item in data] == ["queued", None, None, None, "queued"]
    pointers = [sorted(e["pointer"] for e in item["problem"]["errors"]) for item in data if "problem" in item]
    assert pointers == [["/body", "/destination"], [""], ["/provider"]]
    for item in (data[0], data[4]):
        await stack.becomes(item["id"], "sent")
    assert stack.rows("SELECT count(*) FROM jobs") == [(2,)]


async def test_a_batch_has_one_to_a_thousand_items(stack: Stack) -> None:
    item = {"destination": "+1", "body": "b"}
    for messages in ([], [item] * 1001, "text", None):
        status, answer = await _batch(stack, messages)
        assert (status, answer["errors"][0]["pointer"]) == (422, "/messages")
    status, answer = await _batch(stack, [item] * 1000)
    assert (status, len(answer["data"])) == (202, 1000)
    assert len({item["id"] for item in answer["data"]}) == 1000
    await stack.all_become("sent", 1000)


async def test_without_postgres_a_batch_is_503_as_a_whole(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path, accept_timeout_seconds=DEFAULT_PATIENCE) as stack:
        await stack.proxies["postgres"].refuse()
        status, answer = await _batch(stack, [{"destination": "+1", "body": "b"}] * 3)
        assert (status, answer["code"]) == (503, "unavailable")


@pytest.mark.reuses_stack
async def test_labels_are_returned_unchanged(stack: Stack) -> None:
    metadata = {"z": 1, "a": [1.5, None, True, {"deep": "é😀"}], "big": 2**53, "empty": {}}
    labels: dict[str, Any] = {"reference": "order-17", "tags": ["a", "b c"], "metadata": metadata}
    record = await stack.record(await stack.submit(**labels))
    assert {name: record[name] for name in labels} == labels
    assert list(record["metadata"]) == list(metadata)
    plain = await stack.record(await stack.submit())
    assert (plain["reference"], plain["tags"], plain["metadata"]) == (None, [], None)


@pytest.mark.reuses_stack
async def test_labels_that_cannot_be_kept_are_named(stack: Stack) -> None:
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"reference": ""}, "/reference", "too_short"),
        ({"reference": "x" * 256}, "/reference", "too_long"),
        ({"tags": ["x"] * 11}, "/tags", "too_long"),
        ({"tags": ["ok", ""]}, "/tags/1", "too_short"),
        ({"tags": ["a\0"]}, "/tags/0", "nul_character"),
        ({"tags": "a"}, "/tags", "wrong_type"),
        ({"metadata": []}, "/metadata", "wrong_type"),
        ({"metadata": {"a": "x" * 4097}}, "/metadata", "too_long"),
        ({"metadata": {"a": "\0"}}, "/metadata", "nul_character"),
        ({"metadata": {"a": 2**70}}, "/metadata", "unsupported_value"),
        ({"priority": "urgent"}, "/priority", "unknown_value"),
    ]
    for labels, pointer, code in bad:
        status, answer = await stack.post(**labels)
        assert (status, answer["errors"][0]["pointer"], answer["errors"][0]["code"]) == (422, pointer, code)
    for raw in (b'{"a": "\\ud800"}', b'{"a": 1e400}', b'{"\\ud800": 1}'):
        body = b'{"destination": "+1", "body": "b", "metadata": ' + raw + b"}"
        headers = {"Content-Type": "application/json"}
        async with stack.session.post(f"{stack.base}/messages", data=body, headers=headers) as response:
            assert (response.status, (await response.json())["errors"][0]["pointer"]) == (422, "/metadata"), raw
