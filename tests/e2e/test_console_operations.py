"""Providers, callbacks and keys in the console, over real HTTP without JavaScript."""

import html
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.console import Answer, Visitor, visitor
from tests.support.factories import new_id
from tests.support.keys import call, create_key, until_keys_required
from tests.support.receiver import CALLBACKS_ON, Receiver, receiving
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOBS = "/api/2.0/report/jobs"
OTHER = {"other": {"url": "http://127.0.0.1:9/message"}}
SETTINGS: dict[str, Any] = {**CALLBACKS_ON, "callback_retry_seconds": "[0.1]", "default_provider": "sandbox"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


@pytest.fixture
async def operated(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(services, database, broker_namespace, tmp_path, others=OTHER, **SETTINGS) as stack:
        yield stack


@pytest.fixture
async def browser(operated: Stack) -> AsyncIterator[Visitor]:
    async with visitor(operated.base) as opened:
        yield opened


def field(page: Answer, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found, page.words
    return html.unescape(found[1])


async def test_providers_pause_resume_and_move(operated: Stack, browser: Visitor) -> None:
    page = await browser.get("/console/providers")
    assert "sandbox" in page.words and "Pause" in page.words
    for _ in range(2):
        assert (await browser.post("/console/providers/pause", {"provider": "other"})).status == 303
    assert (await browser.post("/console/providers/pause", {"provider": "gone"})).status == 404
    ids = [await operated.submit(provider="other", priority=priority) for priority in ("high", "normal", "normal")]
    paused = await eventually(lambda: browser.get("/console/providers"), lambda answer: "Resume" in answer.words)
    assert "Paused since" in paused.words
    preview = await browser.get("/console/providers/move?old=other")
    assert "3 messages wait for other" in preview.words and "<option>other" not in preview.text
    form = {name: field(preview, name) for name in ("old", "total", "moved")} | {"new": "sandbox"}
    for wrong in ({"new": "gone"}, {"new": "other"}, {"total": "-1"}, {"total": "1e3"}, {"moved": ""}):
        assert (await browser.post("/console/providers/move", {**form, **wrong})).status == 422
    moved = await browser.post("/console/providers/move", form)
    assert "3 moved from other to sandbox" in moved.words
    for id_ in ids:
        await operated.becomes(id_, "sent")
    assert (await browser.post("/console/providers/resume", {"provider": "other"})).status == 303
    await eventually(lambda: browser.get("/console/providers"), lambda answer: "Resume" not in answer.words)
    assert operated.rows("SELECT provider FROM provider_pauses") == []
    recent = await eventually(
        lambda: browser.get("/console/providers"), lambda answer: bool(re.search(r"of [3-9] not accepted", answer.words))
    )
    assert "p99" in recent.words


async def test_a_move_takes_no_more_than_it_showed(operated: Stack, browser: Visitor) -> None:
    await operated.processes["worker"].kill()  # nobody claims them
    await browser.get("/console/providers")
    ids = [await operated.submit(provider="other") for _ in range(3)]
    form = {"old": "other", "new": "sandbox", "total": "2", "moved": "0"}
    stopped = await browser.post("/console/providers/move", {**form, "stop": "yes"})
    assert "3 messages wait for other" in stopped.words
    moved = await browser.post("/console/providers/move", form)
    assert "2 moved" in moved.words and "The run is over" in moved.words
    assert [(await operated.record(id_))["provider"] for id_ in ids] == ["sandbox", "sandbox", "other"]


async def test_callbacks_by_host(operated: Stack, browser: Visitor, receiver: Receiver) -> None:
    assert "No recent callbacks" in (await browser.get("/console/callbacks")).words
    operated.start("caller", "consumers", "callbacks")
    receiver.answers = [204, 500, 500]
    await operated.submit(callback_url=receiver.url + "/hook?a=1&b=2")
    host = f"127.0.0.1:{receiver.port}"

    def counts(delivered: int, failed: int) -> str:
        return f"{host} {delivered} 0 0 {failed}"

    page = await eventually(lambda: browser.get("/console/callbacks"), lambda answer: counts(1, 0) in answer.words)
    assert "/hook?a=1&amp;b=2" in page.text
    await operated.submit(callback_url=receiver.url)
    page = await eventually(lambda: browser.get("/console/callbacks"), lambda answer: counts(1, 1) in answer.words)
    assert "attempts_exhausted" in page.words and "Dead callbacks" in page.words


async def test_keys_are_shown_once_rotated_and_revoked(operated: Stack) -> None:
    async with visitor(operated.base) as admin:
        await admin.get("/console/keys")
        for wrong in ("", "A", "a" * 64, "<b>"):
            assert (await admin.post("/console/clients", {"name": wrong})).status == 422
        assert (await admin.post("/console/clients", {"name": "ops"})).status == 303
        assert (await admin.post("/console/clients", {"name": "ops"})).status == 409
        assert (await admin.post("/console/keys", {"client": "ops"})).status == 422
        assert (await admin.post("/console/keys", {"client": "none", "scope": "admin"})).status == 404
        assert (await admin.post("/console/keys", {"client": "ops", "scope": "admin", "days": "-1"})).status == 422
        created = await admin.post("/console/keys", {"client": "ops", "scope": "admin", "days": ""})
        assert created.status == 201 and "This is the first key" in created.words
        (key,) = re.findall(r"ph_[A-Za-z0-9]{8}_[A-Za-z0-9]{32}", created.text)
        await until_keys_required(operated)
        assert (await admin.get("/console/keys")).status == 303
        await admin.sign_in(key)
        page = await admin.get("/console/keys")
        assert key not in page.text and key[:11] in page.words and "this session" in page.words
        await admin.post("/console/keys", {"client": "ops", "scope": "reports"})
        rotated = await admin.post("/console/keys/rotate", {"key": key[:11], "hours": "1"})
        (second,) = re.findall(r"ph_[A-Za-z0-9]{8}_[A-Za-z0-9]{32}", rotated.text)
        assert (await call(operated, "GET", "/messages", second))[0] == 200
        assert (await admin.post("/console/keys/rotate", {"key": "ph_unknown1"})).status == 404
        asked = await admin.post("/console/keys/revoke", {"name": second[:11]})
        assert "This cannot be undone" in asked.words and (await call(operated, "GET", "/messages", second))[0] == 200
        assert (await admin.post("/console/keys/revoke", {"name": second[:11], "confirm": "yes"})).status == 303

        async def status() -> int:
            return (await call(operated, "GET", "/messages", second))[0]

        await eventually(status, lambda code: code == 401, 2)
        warned = await admin.post("/console/keys/revoke", {"name": "ops", "of": "client"})
        assert "No usable key would be left" in warned.words
        assert (await admin.post("/console/keys/revoke", {"name": "ph_unknown1"})).status == 404


async def test_scopes_decide_what_is_shown_and_done(operated: Stack) -> None:
    reader = await create_key(operated, "shop", "--scope", "messages:read")
    clerk = await create_key(operated, "desk", "--scope", "dead-letters", "--scope", "reports", "--scope", "messages:write")
    await until_keys_required(operated)
    paths = (
        "/console/dead-letters",
        "/console/dead-letters/requeue",
        "/console/reports",
        "/console/providers",
        "/console/keys",
    )
    changes = (
        "/console/dead-letters/requeue",
        "/console/dead-letters/canaries",
        "/console/reports",
        "/console/providers/pause",
    )
    async with visitor(operated.base) as browser:
        await browser.sign_in(reader)
        page = await browser.get("/console/callbacks")
        assert page.status == 200
        for word in ("Dead letters", "Reports", "Providers", "Clients and keys", "Settings"):
            assert word not in page.words
        for path in paths:
            assert (await browser.get(path)).status == 403, path
        for path in (*changes, "/console/keys", "/console/keys/revoke", "/console/clients", "/console/dead-letters/discard"):
            assert (await browser.post(path, {"provider": "sandbox"})).status == 403, path
    await operated.faults(fail=1.0, fail_status=400)
    mine = await _dead_of(operated, clerk)
    theirs = await _dead_of(operated, await create_key(operated, "other"))
    async with visitor(operated.base) as browser:
        await browser.sign_in(clerk)
        page = await browser.get("/console/dead-letters")
        assert mine in page.text and theirs not in page.text
        assert "1 letter matches" in (await browser.get("/console/dead-letters/discard")).words
        assert "Nothing to discard" in (await browser.get(f"/console/dead-letters/discard?id={theirs}")).words
        form = {"ids": theirs, "id": theirs, "total": "1"}
        await browser.post("/console/dead-letters/canaries", form)
        await browser.post("/console/dead-letters/discard", form)
        assert theirs not in (await browser.get("/console/dead-letters/export")).text
        assert (await browser.get("/console/providers")).status == 403
    assert operated.rows(f"SELECT status FROM jobs WHERE id = '{theirs}'") == [("failed",)]
    other = await create_key(operated, "third", "--scope", "reports")
    _, report, _ = await call(operated, "POST", "/api/2.0/report/posts", clerk)
    async with visitor(operated.base) as browser:
        await browser.sign_in(other)
        assert (await browser.get(f"/console/reports/{report['id']}")).status == 404
        assert report["id"] not in (await browser.get("/console/reports")).text
    async with visitor(operated.base) as admin:
        await admin.sign_in(await create_key(operated, "ops", "--scope", "admin"))
        assert (await admin.get(f"/console/reports/{report['id']}")).status == 200
        page = await admin.get("/console/dead-letters")
        assert mine in page.text and theirs in page.text


async def _dead_of(stack: Stack, key: str) -> str:
    """The id of a dead letter of this key's client."""
    code, answer, _ = await call(stack, "POST", "/messages", key, json={"destination": "+1", "body": "x"})
    assert code == 202, answer

    async def status() -> object:
        return stack.rows(f"SELECT status FROM jobs WHERE id = '{answer['id']}'")[0][0]

    await eventually(status, lambda value: value == "failed")
    return str(answer["id"])


async def test_without_postgres_each_page_says_what_still_works(operated: Stack, browser: Visitor) -> None:
    await browser.get("/console/providers")
    await operated.proxies["postgres"].refuse()
    for path in (
        "/console/dead-letters",
        "/console/reports",
        "/console/callbacks",
        "/console/keys",
        "/console/dead-letters/requeue",
    ):
        page = await browser.get(path)
        assert page.status == 503 and "Postgres does not answer" in page.words and "Accepting messages" in page.words, path
    providers = await eventually(lambda: browser.get("/console/providers"), lambda page: "Recent calls unknown" in page.words)
    assert providers.status == 200 and "Postgres does not answer" in providers.words
    assert (await browser.post("/console/providers/pause", {"provider": "sandbox"})).status == 503
    await operated.proxies["postgres"].accept()
    await eventually(lambda: browser.get("/console/dead-letters"), lambda answer: answer.status == 200)
    await operated.proxies["redis"].refuse()
    without_redis = await eventually(
        lambda: browser.get("/console/providers"), lambda answer: "Redis does not answer" in answer.words
    )
    assert without_redis.status == 200


async def test_no_page_fails_for_a_nul_character(browser: Visitor) -> None:
    """Postgres stores none, and its driver raises a plain ValueError."""
    assert (await browser.get("/console/providers/move?old=%00")).status == 422
    for path, name, others in (
        ("/console/providers/move", "old", {"new": "sandbox", "total": "5", "moved": "0"}),
        ("/console/providers/resume", "provider", {}),
        ("/console/keys", "client", {"scope": "admin"}),
        ("/console/keys/rotate", "key", {}),
        ("/console/keys/revoke", "name", {}),
    ):
        await browser.get("/console/keys")
        answer = await browser.post(path, {name: "a\0", **others})
        assert answer.status == 422 and f"{name}: must not contain a NUL" in answer.words, path


async def test_the_url_of_the_operator_is_masked(operated: Stack, browser: Visitor) -> None:
    url = "https://u:s3cret@ops.example/s3cret?t=s3cret"
    columns = "id, client_id, kind, destination, body, status, reason, finished_at"
    values = f"""'{new_id()}', '(operator)', 'callback', '{url}', '{{"type": "age.high"}}', 'failed', 'http_500', now()"""
    operated.rows(f"INSERT INTO jobs ({columns}) VALUES ({values}) RETURNING id")
    letters = "/console/dead-letters"
    for path in ("/console/callbacks", letters, f"{letters}/export?format=csv", f"{letters}/export?format=jsonl"):
        page = await browser.get(path)
        assert page.status == 200 and "ops.example" in page.text and "s3cret" not in page.text, path
    shown = await browser.get("/console/callbacks")
    assert "the installation" in shown.words and "a deleted job" not in shown.words
