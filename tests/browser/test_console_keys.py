"""The console with keys: sign-in, a read-only key that finds no action, and keys that are shown once."""

import re
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Browser, Page, expect

from infra.keys import new_key
from tests.browser import axe
from tests.browser.installation import Installation
from tests.browser.visits import PHONE, Visit, visiting
from tests.support.keys import call, create_key, key_store, until_keys_required
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = re.compile(r"ph_[A-Za-z0-9]{8}_[A-Za-z0-9]{32}")


async def _send_key(visit: Visit, key: str) -> None:
    await visit.page.get_by_label("API key").fill(key)
    async with visit.page.expect_navigation():
        await visit.page.get_by_role("button", name="Sign in").click()


async def _sign_in(visit: Visit, key: str, path: str) -> None:
    """Sign in on the way to a page. A busy machine may not look the key up in time, and answers 503."""
    visit.expected.append("status of 503 (Service Unavailable)")

    async def title() -> str:
        await visit.open(path)
        if "sign-in" in visit.page.url:
            await _send_key(visit, key)
        return await visit.page.title()

    await eventually(title, lambda name: not name.startswith(("Sign in", "Postgres")))


async def _create_client(page: Page) -> None:
    await page.get_by_label("New client").fill("browser")
    async with page.expect_navigation():
        await page.get_by_role("button", name="Create the client").click()


async def _create_key(page: Page) -> None:
    await page.get_by_label("Client", exact=True).select_option("browser")
    async with page.expect_navigation():
        await page.get_by_role("button", name="Create the key").click()


async def _repeat(visit: Visit, act: Callable[[Page], Awaitable[None]], text: str) -> None:
    """Send a form of the page of keys until the answer has a text. A busy machine answers 503, and may have created it."""
    visit.expected.append("status of 409")

    async def content() -> str:
        await visit.open("/console/keys")
        await act(visit.page)
        return await visit.page.inner_text("main")

    await eventually(content, lambda content: text in content)


async def _dead_letter(installation: Installation, key: str) -> str:
    """The id of a rejected message of this key's client."""
    stack = installation.stack
    await installation.break_provider()
    _, answer, _ = await call(stack, "POST", "/messages", key, json={"destination": "+15550001", "body": "hello"})

    async def status() -> object:
        return (await call(stack, "GET", f"/messages/{answer['id']}", key))[1]["status"]

    await eventually(status, lambda value: value == "failed")
    await installation.repair_provider()
    return str(answer["id"])


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_sign_in_is_accessible_and_names_a_wrong_key(
    browser: Browser, installation: Installation, theme: str
) -> None:
    await create_key(installation.stack, "shop")
    await until_keys_required(installation.stack)
    async with visiting(browser, installation.stack.base, theme=theme, size=PHONE) as visit:
        visit.expected = ["status of 401"]
        await visit.open("/console/reports")
        assert await axe.violations(visit.page) == []
        await _send_key(visit, new_key().key)
        await expect(visit.page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")
        assert await axe.violations(visit.page) == []
        assert visit.unexpected() == []


async def test_a_read_only_key_finds_no_action(installation: Installation, visit: Visit) -> None:
    stack, page = installation.stack, visit.page
    writer = await create_key(stack, "shop")
    reader = await create_key(stack, "shop", "--scope", "messages:read")
    await until_keys_required(stack)
    id_ = await _dead_letter(installation, writer)
    await _sign_in(visit, reader, "/")
    pages = page.get_by_role("navigation", name="Pages").get_by_role("link")
    await expect(pages).to_have_text(["Overview", "Messages", "Callbacks", "HTTP API"])
    for path in ("/", "/console/messages", f"/console/messages/{id_}", "/console/callbacks"):
        await visit.open(path)
        assert await page.locator("main form[method=post]").count() == 0, path
        assert await axe.violations(page) == [], path
    visit.expected.append("status of 403")
    for path in ("/console/dead-letters", "/console/providers", "/console/keys", "/console/settings"):
        await visit.open(path)
        await expect(page.get_by_text("This key lacks the scope")).to_be_visible()
        assert await axe.violations(page) == [], path


async def test_a_new_key_is_shown_once_and_works(installation: Installation, visit: Visit) -> None:
    stack, page = installation.stack, visit.page
    admin = await create_key(stack, "ops", "--scope", "admin")
    await until_keys_required(stack)
    await _sign_in(visit, admin, "/console/keys")
    await _repeat(visit, _create_client, "browser")
    await _repeat(visit, _create_key, "shown once")
    key = await page.locator("#new-key").inner_text()
    assert KEY.fullmatch(key) and await axe.violations(page) == []
    assert (await call(stack, "GET", "/messages", key))[0] == 200
    await visit.open("/console/keys")
    await expect(page.get_by_text(key)).to_have_count(0)
    await page.get_by_role("button", name=f"Revoke {key[:11]}").click()
    await expect(page.get_by_role("heading", name=f"Revoke {key[:11]}?")).to_be_visible()
    assert await axe.violations(page) == []
    await page.get_by_role("button", name="Revoke", exact=True).click()

    async def status() -> object:
        return (await call(stack, "GET", "/messages", key))[0]

    await eventually(status, lambda value: value == 401)


async def test_a_revoked_key_ends_an_open_page(installation: Installation, visit: Visit) -> None:
    stack = installation.stack
    key = await create_key(stack, "guest", "--scope", "admin")
    await until_keys_required(stack)
    await _sign_in(visit, key, "/console/providers")
    await expect(visit.page.locator("[data-live-state]")).to_have_text("Live")
    async with key_store(stack) as store:
        assert await store.revoke(key[:11], 10) == 1
    await expect(visit.page.locator("#live")).to_contain_text("Your session has ended")
    await expect(visit.page.get_by_role("button", name="Pause sandbox")).to_have_count(0)
