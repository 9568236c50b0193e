"""Recurring reports in the console, over real HTTP without JavaScript."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.console import Answer, Visitor, visitor
from tests.support.keys import call, create_key, until_keys_required
from tests.support.receiver import CALLBACKS_ON
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

PAGE, SCHEDULES = "/console/reports/schedules", "/api/2.0/report/schedules"
FORM = {
    "cron": "0 6 * * *",
    "timezone": "Europe/Berlin",
    "name": "nightly",
    "from": "2026-01-01T00:00",
    "to": "",
    "user_ids": "1, 2 3",
    "limit": "5",
    "order": "words",
    "histogram": "words",
    "callback_url": "",
}


@pytest.fixture
async def operated(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(services, database, broker_namespace, tmp_path, **CALLBACKS_ON) as stack:
        yield stack


@pytest.fixture
async def browser(operated: Stack) -> AsyncIterator[Visitor]:
    async with visitor(operated.base) as opened:
        yield opened


async def _listed(stack: Stack, key: str | None = None) -> list[dict[str, Any]]:
    _, answer, _ = await call(stack, "GET", SCHEDULES, key)
    return list(answer["data"])


async def test_a_schedule_is_created_once_shown_with_its_last_report_and_deleted(operated: Stack, browser: Visitor) -> None:
    assert PAGE in (await browser.get("/console/reports")).text
    assert "No schedules yet" in (await browser.get(PAGE)).words
    for _ in range(2):
        assert (await browser.post(PAGE, FORM)).place == PAGE
    (row,) = await _listed(operated)
    assert row["report"] == {
        "from": "2026-01-01T00:00:00.000Z",
        "to": None,
        "user_ids": [1, 2, 3],
        "order": "words",
        "limit": 5,
        "histogram": "words",
    }
    page = await browser.get(PAGE)
    for text in ("nightly", "0 6 * * *", "Europe/Berlin", "posts from 2026-01-01 00:00, 3 users, top 5, most words first"):
        assert text in page.words
    operated.rows("UPDATE report_schedules SET next_at = now()")
    shown = await eventually(lambda: browser.get(PAGE), lambda answer: "queued" in answer.words)
    link = re.search(r"/console/reports/[0-9a-f-]{36}", shown.text)
    assert link and (await browser.get(link[0])).status == 200
    await browser.get(PAGE)
    assert (await browser.post(f"{PAGE}/delete", {"client": "default", "schedule": "nightly"})).place == PAGE
    assert await _listed(operated) == []
    again = await browser.post(f"{PAGE}/delete", {"client": "default", "schedule": "nightly"})
    assert again.status == 404 and "has no schedule nightly" in again.words


async def test_an_invalid_form_is_shown_again_with_its_faults(operated: Stack, browser: Visitor) -> None:
    await browser.get(PAGE)
    for field, value, fault in (
        ("cron", "0 0 30 2 *", "cron: never matches a date"),
        ("cron", "", "cron: must have 5 fields"),
        ("timezone", "Mars", "timezone: must be a name of the IANA time zone database"),
        ("name", "N", "name: "),
        ("limit", "many", "limit: "),
        ("user_ids", "1, x", "user_ids/1: "),
        ("from", "yesterday", "from: must be an instant"),
        ("callback_url", "http://10.0.0.1/<b>", "callback_url: "),
    ):
        answer = await browser.post(PAGE, {**FORM, field: value})
        assert answer.status == 422 and fault in answer.words, (field, answer.words)
        assert 'value="Europe/Berlin"' in answer.text or field == "timezone", "the other fields are kept"
        assert "<b>" not in answer.text.replace("<p><b>", "")
    assert (await browser.post(PAGE, FORM)).status == 303
    taken = await browser.post(PAGE, {**FORM, "cron": "0 7 * * *"})
    assert taken.status == 409 and "another schedule nightly" in taken.words
    assert (await browser.post(PAGE, FORM, token="wrong")).status == 403
    assert len(await _listed(operated)) == 1


async def test_admins_delete_schedules_of_every_client_and_others_their_own(operated: Stack) -> None:
    shop, bank = await create_key(operated, "shop"), await create_key(operated, "bank")
    admin = await create_key(operated, "ops", "--scope", "admin")
    reader = await create_key(operated, "shop", "--scope", "messages:read")
    await until_keys_required(operated)
    assert (await call(operated, "POST", SCHEDULES, shop, json={"cron": "0 6 * * *", "name": "of-shop"}))[0] == 201

    async def visit(key: str, client: str = "shop") -> tuple[Answer, Answer]:
        async with visitor(operated.base) as browser:
            await browser.sign_in(key)
            page = await browser.get(PAGE)
            return page, await browser.post(f"{PAGE}/delete", {"client": client, "schedule": "of-shop"})

    page, deleted = await visit(bank)
    assert (page.status, deleted.status) == (200, 404) and "of-shop" not in page.words
    page, deleted = await visit(reader)
    assert (page.status, deleted.status) == (403, 403)
    assert len(await _listed(operated, shop)) == 1
    page, deleted = await visit(admin)
    assert deleted.place == PAGE and "of-shop shop" in page.words
    assert await _listed(operated, shop) == []
