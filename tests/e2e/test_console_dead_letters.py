"""Dead letters in the console, over real HTTP without JavaScript: preview, canaries, steps, discard, export."""

import csv
import html
import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
import pytest_asyncio

from tests.support.console import Answer, Visitor, visitor
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = """<script>alert(1)</script>"'`{{ 7 * 7 }}"""
BASE = "/console/dead-letters"


@pytest_asyncio.fixture(loop_scope="module")
async def browser(shared_stack: Stack) -> AsyncIterator[Visitor]:
    async with visitor(shared_stack.base) as opened:
        yield opened


async def dead(stack: Stack, status: int, count: int, **fields: Any) -> list[str]:
    """Messages that the provider rejects with this status, which names their reason."""
    await stack.faults(fail=1.0, fail_status=status)
    ids = [await stack.submit(f"+1555{number:04}", **fields) for number in range(count)]
    for id_ in ids:
        await stack.becomes(id_, "failed")
    await stack.faults(fail=0.0)
    return ids


def fields_of(page: Answer, action: str) -> dict[str, str]:
    """The hidden fields of the page's form for `action`."""
    form = re.search(rf'<form[^>]*method="post" action="{action}".*?</form>', page.text, re.DOTALL)
    assert form, page.words
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[0])
    return {name: html.unescape(value) for name, value in found if name != "csrf_token"}


async def test_canaries_then_the_others_and_no_letter_twice(shared_stack: Stack, browser: Visitor) -> None:
    stack = shared_stack
    ids = await dead(stack, 401, 7)
    listed = await browser.get(f"{BASE}?reason=http_401")
    assert "7 letters match" in listed.words
    preview = await browser.get(f"{BASE}/requeue?reason=http_401&canaries=5")
    assert "7 letters match" in preview.words and "Reason http_401" in preview.words
    later = await dead(stack, 401, 1)
    canaries = fields_of(preview, f"{BASE}/canaries")
    for _ in range(2):  # the second click changes nothing
        await browser.post(f"{BASE}/canaries", canaries)
    for id_ in sorted(ids)[:5]:
        await stack.becomes(id_, "sent")
    assert {await stack.status(id_) for id_ in sorted(ids)[5:]} == {"failed"}
    watched = await browser.post(f"{BASE}/canaries", canaries)
    assert "5 of 5 canaries succeeded" in watched.words
    rest = fields_of(watched, f"{BASE}/requeue")
    for _ in range(2):
        moved = await browser.post(f"{BASE}/requeue", rest)
        assert moved.status == 200
    for id_ in ids:
        await stack.becomes(id_, "sent")
    records = [await stack.record(id_) for id_ in ids]
    assert {record["version"] for record in records} == {6}  # accepted, claimed, failed, requeued, claimed, sent
    assert await stack.status(later[0]) == "failed"  # the preview did not count it


async def test_a_run_ends_when_no_letter_is_left(shared_stack: Stack, browser: Visitor) -> None:
    await dead(shared_stack, 402, 2)
    preview = await browser.get(f"{BASE}/requeue?reason=http_402")
    first = await browser.post(f"{BASE}/requeue", fields_of(preview, f"{BASE}/requeue"))
    assert "2 requeued" in first.words and "0 remain" in first.words
    last = await browser.post(f"{BASE}/requeue", fields_of(first, f"{BASE}/requeue"))
    assert "2 requeued" in last.words and "The run is over" in last.words


async def test_failing_canaries_warn_before_the_others(shared_stack: Stack, browser: Visitor) -> None:
    await dead(shared_stack, 403, 3)
    preview = await browser.get(f"{BASE}/requeue?reason=http_403&canaries=1")
    await shared_stack.faults(fail=1.0, fail_status=403)
    canaries = fields_of(preview, f"{BASE}/canaries")
    watched = f"{BASE}/canaries?{urlencode(canaries)}"
    assert (await browser.post(f"{BASE}/canaries", canaries)).status == 200
    judged = await eventually(lambda: browser.get(watched), lambda page: "0 of 1 canaries succeeded" in page.words)
    assert "The cause seems to remain" in judged.words
    await shared_stack.faults(fail=0.0)


async def test_letters_of_a_removed_provider_need_another_one(shared_stack: Stack, browser: Visitor) -> None:
    (id_,) = await dead(shared_stack, 405, 1)
    shared_stack.rows(f"UPDATE jobs SET provider = 'gone' WHERE id = '{id_}' RETURNING id")
    preview = await browser.get(f"{BASE}/requeue?provider=gone")
    assert "1 of them cannot be requeued" in preview.words and "Requeue all" not in preview.words
    offered = await browser.get(f"{BASE}/requeue?provider=gone&provider_to=sandbox")
    assert "New provider sandbox" in offered.words
    await browser.post(f"{BASE}/requeue", fields_of(offered, f"{BASE}/requeue"))
    await shared_stack.becomes(id_, "sent")
    assert (await browser.get(f"{BASE}/requeue?provider=gone&provider_to=unknown")).status == 422


async def test_discard_changes_what_the_preview_counted(shared_stack: Stack, browser: Visitor) -> None:
    ids = await dead(shared_stack, 406, 3)
    preview = await browser.get(f"{BASE}/discard?reason=http_406")
    assert "Discard 3 permanently" in preview.words
    (later,) = await dead(shared_stack, 406, 1)
    form = fields_of(preview, f"{BASE}/discard")
    stopped = await browser.post(f"{BASE}/discard", {**form, "stop": "yes"})
    assert stopped.status == 200 and "Stopped: 3 of 3 letters are unchanged" in stopped.words
    done = await browser.post(f"{BASE}/discard", form)
    assert "3 discarded" in done.words
    for id_ in ids:
        await shared_stack.becomes(id_, "discarded")
    assert await shared_stack.status(later) == "failed"


async def test_the_export_has_every_letter_of_the_filter(shared_stack: Stack, browser: Visitor) -> None:
    ids = await dead(shared_stack, 407, 3, reference=HOSTILE, tags=["a,b", 'c"d'])
    lines = await browser.get(f"{BASE}/export?format=jsonl&reason=http_407")
    letters = [json.loads(line) for line in lines.text.splitlines()]
    assert [letter["id"] for letter in letters] == sorted(ids)
    assert letters[0]["reference"] == HOSTILE and letters[0]["tags"] == ["a,b", 'c"d'] and "body" not in letters[0]
    table = await browser.get(f"{BASE}/export?format=csv&reason=http_407")
    assert table.headers["Content-Type"].startswith("text/csv") and "attachment" in table.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["id"] for row in rows] == sorted(ids) and rows[0]["reference"] == HOSTILE
    assert json.loads(rows[0]["tags"]) == ["a,b", 'c"d']
    assert (await browser.get(f"{BASE}/export?format=xml")).status == 422


async def test_a_group_without_a_reason_has_no_link(shared_stack: Stack, browser: Visitor) -> None:
    """A filter without a reason matches every reason."""
    ids = await dead(shared_stack, 412, 2, reference="half")
    shared_stack.rows(f"UPDATE jobs SET reason = NULL WHERE id = '{ids[0]}' RETURNING id")
    page = await browser.get(f"{BASE}?reference=half")
    assert "2 letters match" in page.words and "no reason" in page.words
    (link,) = re.findall(rf'href="({BASE}\?[^"]*)">([^<]*)</a></td>\s*<td data-label="Kind"', page.text)
    assert link[1] == "http_412" and "1 letter matches" in (await browser.get(html.unescape(link[0]))).words


async def test_hostile_text_is_text(shared_stack: Stack, browser: Visitor) -> None:
    await shared_stack.faults(fail=1.0, fail_status=410)
    id_ = await shared_stack.submit(HOSTILE[:300], HOSTILE, reference=HOSTILE, tags=[HOSTILE[:64]])
    await shared_stack.becomes(id_, "failed")
    await shared_stack.faults(fail=0.0)
    for path in (
        f"{BASE}?reason=http_410",
        f"{BASE}?reason={HOSTILE}",
        f"{BASE}/requeue?tag={HOSTILE[:64]}",
        f"{BASE}?kind={HOSTILE}",
    ):
        page = await browser.get(path)
        assert "<script>alert" not in page.text, path
        assert "&lt;script&gt;alert" in page.text or "kind" in path, path


@pytest.mark.parametrize(
    "query",
    [
        "kind=letter",
        "status=sent",
        "failed_before=yesterday",
        "id=1",
        "reason=" + "x" * 100,
        "destination=%00",
        "cursor=!",
    ],
)
async def test_invalid_filters_are_named(shared_stack: Stack, browser: Visitor, query: str) -> None:
    page = await browser.get(f"{BASE}?{query}")
    assert page.status == 422 and "not valid" in page.words.lower()
    assert (await browser.get(f"{BASE}/requeue?{query}")).status in (422, 200)


@pytest.mark.parametrize(
    "fields",
    [
        {"ids": ""},
        {"ids": "1 2"},
        {"ids": " ".join([str(UUID(int=7))] * 101)},
        {"total": "-1"},
        {"after": "x"},
        {"provider_to": "no"},
    ],
)
async def test_forged_forms_change_nothing(shared_stack: Stack, browser: Visitor, fields: dict[str, str]) -> None:
    await browser.get(BASE)
    answer = await browser.post(f"{BASE}/canaries", {"ids": str(UUID(int=7)), **fields})
    assert answer.status == 422


async def test_an_empty_page_says_so(shared_stack: Stack, browser: Visitor) -> None:
    assert "No dead letter matches" in (await browser.get(f"{BASE}?reason=nothing")).words
    assert "Nothing to requeue" in (await browser.get(f"{BASE}/requeue?reason=nothing")).words
    assert "Nothing to discard" in (await browser.get(f"{BASE}/discard?reason=nothing")).words


async def test_a_form_without_a_token_changes_nothing(shared_stack: Stack, browser: Visitor) -> None:
    (id_,) = await dead(shared_stack, 411, 1)
    preview = await browser.get(f"{BASE}/discard?reason=http_411")
    assert (await browser.post(f"{BASE}/discard", fields_of(preview, f"{BASE}/discard"), token="x")).status == 403
    assert await shared_stack.becomes(id_, "failed")  # the cache may still have an earlier status
