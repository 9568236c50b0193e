"""The console in a browser: live states, dead letters, providers, reports; accessible and inert pages."""

import struct

import pytest
from playwright.async_api import Browser, expect

from api.console.views import NAVIGATION
from tests.browser import axe
from tests.browser.installation import HOSTILE, Installation
from tests.browser.pages import PAGES
from tests.browser.visits import PHONE, Visit, visiting

pytestmark = pytest.mark.asyncio(loop_scope="module")

LETTERS = "/console/dead-letters"
POSTGRES = (
    "postgres",
    "Postgres",
    ("/", "/console/messages", LETTERS, "/console/reports", "/console/callbacks", "/console/keys"),
)
OUTAGES = {
    "light": (("redis", "Redis", ("/", "/console/providers")), POSTGRES),
    "dark": (("rabbitmq", "RabbitMQ", ("/", "/console/providers")), POSTGRES),
}


async def test_a_message_becomes_sent_while_its_page_is_open(installation: Installation, visit: Visit) -> None:
    await installation.break_provider(500)
    id_ = await installation.stack.submit("+15559000")
    await installation.stack.becomes(id_, "retrying")
    await visit.open(f"/console/messages/{id_}")
    state = visit.page.locator(".state")
    await expect(state).to_contain_text("retrying")
    await installation.repair_provider()
    await expect(state).to_contain_text("sent")
    await expect(visit.page.locator(".steps")).to_contain_text("http_500")


async def test_the_overview_is_live_and_can_be_paused(installation: Installation, visit: Visit) -> None:
    await visit.open("/")
    live = visit.page.locator("[data-live-state]")
    await expect(live).to_have_text("Live")
    await visit.page.get_by_role("button", name="Pause").click()
    await expect(live).to_have_text("Paused")
    await visit.page.get_by_role("button", name="Resume").click()
    await expect(live).to_have_text("Live")
    before = await visit.page.locator(".sampled time").inner_text()
    await expect(visit.page.locator(".sampled time")).not_to_have_text(before)


async def test_dead_letters_are_requeued_after_their_canaries(installation: Installation, visit: Visit) -> None:
    page, ids = visit.page, await installation.dead_letters(7, 409)
    await visit.open(LETTERS)
    await page.get_by_role("link", name="http_409").first.click()
    await expect(page.get_by_role("heading", name="7 letters match")).to_be_visible()
    await page.get_by_role("link", name="Requeue…", exact=True).first.click()
    await page.get_by_role("button", name="Requeue 5 first").click()
    await expect(page.get_by_text("5 of 5 canaries succeeded")).to_be_visible()
    assert await axe.violations(page) == []
    await page.get_by_role("button", name="Requeue the other 2").click()
    await expect(page.get_by_role("heading", name="7 requeued")).to_be_visible()
    await expect(page.get_by_text("The run is over.")).to_be_visible()
    assert await axe.violations(page) == []
    for id_ in ids:
        await installation.stack.becomes(id_, "sent")
    await page.get_by_role("link", name="Dead letters", exact=True).last.click()
    await expect(page.get_by_role("link", name="http_409")).to_have_count(0)


async def test_a_run_is_stopped_and_continued(installation: Installation, visit: Visit) -> None:
    page = visit.page
    installation.add_dead_letters(8_000, "bulk")
    await visit.open(f"{LETTERS}/discard?reason=bulk")
    await page.get_by_role("button", name="Discard 8,000 permanently").click()
    await page.get_by_role("link", name="Stop", exact=True).click()
    await expect(page.get_by_role("heading", name="Stopped")).to_be_visible()
    assert await axe.violations(page) == []
    ((left,),) = installation.stack.rows("SELECT count(*) FROM jobs WHERE reason = 'bulk' AND status = 'failed'")
    assert 0 < int(str(left)) < 8_000
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_text("The run is over.")).to_be_visible()
    assert installation.stack.rows("SELECT DISTINCT status FROM jobs WHERE reason = 'bulk'") == [("discarded",)]


async def test_a_provider_is_paused_and_resumed(installation: Installation, visit: Visit) -> None:
    page, stack = visit.page, installation.stack
    await visit.open("/console/providers")
    await page.get_by_role("button", name="Pause sandbox").click()
    await expect(page.get_by_role("button", name="Resume sandbox")).to_be_visible()
    assert stack.rows("SELECT provider FROM provider_pauses") == [("sandbox",)]
    id_ = await stack.submit()
    await expect(page.get_by_text("1 normal, the oldest due for")).to_be_visible()  # live
    await page.get_by_role("button", name="Resume sandbox").click()
    await expect(page.get_by_role("button", name="Pause sandbox")).to_be_visible()
    await stack.becomes(id_, "sent")


async def test_a_report_shows_its_chart_when_it_is_completed(installation: Installation, visit: Visit) -> None:
    installation.fill_posts()
    await visit.open("/console/reports")
    await visit.page.get_by_role("button", name="Start a report").click()
    await expect(visit.page.get_by_text("completed")).to_be_visible()
    await expect(visit.page.get_by_role("img", name="The 12 users with the most words").locator(".mark")).to_have_count(12)
    async with visit.page.expect_download() as download:
        await visit.page.get_by_role("link", name="CSV").last.click()
    file = await (await download.value).path()
    assert file.read_text().startswith("user_id,total_words\n1,")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_each_chart_is_saved_as_svg_and_png(browser: Browser, installation: Installation, theme: str) -> None:
    paths = await installation.filled()
    async with visiting(browser, installation.stack.base, theme=theme) as visit:
        await visit.open(paths["report"])
        for name, title in (("users", "The 12 users with the most words"), ("histogram", "Posts by their number of words")):
            card = visit.page.locator("section", has=visit.page.get_by_role("heading", name=title))
            async with visit.page.expect_download() as download:
                await card.get_by_role("button", name="PNG").click()
            saved = await download.value
            content = (await saved.path()).read_bytes()
            width, height = struct.unpack(">II", content[16:24])
            assert saved.suggested_filename.endswith(f"-{name}.png") and content.startswith(b"\x89PNG")
            assert width == 3 * 512 and height > 3 * 200
            async with visit.page.expect_download() as download:
                await card.get_by_role("link", name="SVG").click()
            saved = await download.value
            assert saved.suggested_filename.endswith(f"-{name}.svg")
            assert title in (await saved.path()).read_text()
        assert visit.unexpected() == []


async def test_the_form_of_a_report_shows_its_faults_accessibly(installation: Installation, visit: Visit) -> None:
    visit.expected = ["status of 422"]
    await visit.open("/console/reports")
    await visit.page.get_by_label("User ids").fill("1, x")
    await visit.page.get_by_label("Order").select_option("words")
    await visit.page.get_by_role("button", name="Start a report").click()
    await expect(visit.page.get_by_label("User ids")).to_have_value("1, x")
    await expect(visit.page.get_by_label("User ids")).to_have_attribute("aria-invalid", "true")
    await expect(visit.page.get_by_label("Order")).to_have_value("words")
    await expect(visit.page.get_by_text("Number 2: Input should be a valid integer")).to_be_visible()
    assert await axe.violations(visit.page) == []


async def test_the_theme_is_chosen_and_kept(visit: Visit) -> None:
    await visit.open("/console/settings")
    await visit.page.get_by_role("button", name="Dark").click()
    await expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")
    await visit.open("/")
    await expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")


async def test_the_keyboard_skips_the_navigation(visit: Visit) -> None:
    await visit.open(LETTERS)
    await visit.page.keyboard.press("Tab")
    await expect(visit.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await visit.page.keyboard.press("Enter")
    await expect(visit.page.locator("main")).to_be_focused()


@pytest.mark.parametrize(("theme", "size"), [("light", (1280, 900)), ("dark", PHONE)])
async def test_every_page_is_accessible_and_shows_markup_as_text(
    browser: Browser, installation: Installation, theme: str, size: tuple[int, int]
) -> None:
    paths = PAGES | await installation.filled()
    assert {entry.path for entry in NAVIGATION} <= set(paths.values())
    found: list[str] = []
    async with visiting(browser, installation.stack.base, theme=theme, size=size) as visit:
        visit.expected = ["status of 404", "status of 422"]
        for name, path in paths.items():
            await visit.open(path)
            found += [f"{name}: {violation}" for violation in await axe.violations(visit.page)]
            assert await visit.page.evaluate("window.stolen") is None, path
            assert await visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
            assert name not in ("hostile", "rejected") or HOSTILE in await visit.page.inner_text("main"), path
        found += visit.unexpected()
    assert found == []


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_an_outage_keeps_the_layout_and_names_the_service(
    browser: Browser, installation: Installation, theme: str
) -> None:
    proxies = installation.stack.proxies
    async with visiting(browser, installation.stack.base, theme=theme, size=PHONE) as visit:
        visit.expected = ["status of 503", "events"]
        for service, title, paths in OUTAGES[theme]:
            await proxies[service].refuse()
            try:
                for path in paths:
                    await visit.until_shown(path, f"{title} does not answer")
                    assert await axe.violations(visit.page) == [], path
            finally:
                await proxies[service].accept()
            await installation.stack.until_all_up()
        assert visit.unexpected() == []
