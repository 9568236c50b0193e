"""Screenshots of the console: `python -m tests.browser.screenshots [NAME…]` saves every page, or those of these names.

Each page is saved in both themes and two widths: empty, with jobs, and without Redis and Postgres. `--docs` saves the images
of docs/ instead.
"""

import argparse
import asyncio
import math
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright, expect
from redis.asyncio import Redis

from dev.tools import CHROMIUM, require
from infra.redis.figures import INTERVAL_SECONDS, KEPT_SECONDS
from tests.browser.installation import Installation, installed
from tests.browser.pages import PAGES
from tests.browser.visits import DESKTOP, PHONE, visiting
from tests.support.databases import of_template
from tests.support.services import PROVIDERS, drop_namespace, find, unique

ROOT = Path(__file__).parents[2]
IMAGES = {"overview": "dark", "message": "light", "dead-letters": "light", "report": "dark"}  # and their themes
HEIGHTS = {"report": 1340}  # others: 800


async def save(browser: Browser, base: str, folder: Path, paths: Mapping[str, str]) -> None:
    """Save each page in each theme and width."""
    for theme in ("light", "dark"):
        for size in (DESKTOP, PHONE):
            async with visiting(browser, base, theme=theme, size=size) as visit:
                for name, path in paths.items():
                    await visit.open(path)
                    await visit.page.screenshot(path=folder / f"{name}-{theme}-{size[0]}.png", full_page=True)


async def save_all(installation: Installation, browser: Browser, folder: Path, names: Collection[str]) -> None:
    """Save the pages in all states; with names, those with jobs alone."""
    base = installation.stack.base
    if names:
        paths = PAGES | await installation.filled()
        await save(browser, base, folder, {name: paths[name] for name in names})
        return
    await save(browser, base, folder, {f"{name}-empty": path for name, path in PAGES.items()})
    await save(browser, base, folder, PAGES | await installation.filled())
    for service in ("redis", "postgres"):
        await installation.stack.proxies[service].refuse()
        await save(browser, base, folder, {f"{name}-without-{service}": path for name, path in PAGES.items()})
        await installation.stack.proxies[service].accept()
        await installation.stack.until_all_up()


async def save_images(installation: Installation, browser: Browser, folder: Path) -> None:
    """Save the images of docs/."""
    paths = PAGES | await installation.filled()
    await _add_an_hour(installation)
    for name, theme in IMAGES.items():
        async with visiting(browser, installation.stack.base, theme=theme, size=(1280, HEIGHTS.get(name, 800))) as visit:
            await visit.open(paths[name])
            await visit.page.wait_for_load_state("load")
            if name == "overview":
                await expect(visit.page.locator("[data-live-state]")).to_have_text("Live")
                await expect(visit.page.get_by_text("http_400").first).to_be_visible()  # the sample may be seconds old
            await visit.page.screenshot(path=folder / f"console-{name}.png")
    async with visiting(browser, installation.stack.base, theme="light", size=(1280, 800)) as visit:
        await visit.open(PAGES["requeue"])
        await visit.page.get_by_role("button", name="Requeue 5 first").click()
        await expect(visit.page.get_by_text("5 of 5 canaries succeeded")).to_be_visible()
        await visit.page.screenshot(path=folder / "console-canaries.png")


async def _add_an_hour(installation: Installation) -> None:
    """Counts of the last hour, as processes report them: a wave, and a minute of failures."""
    redis, key = Redis.from_url(installation.stack.services.redis), f"{installation.stack.namespace}:figures:counts:"
    now = int(time.time()) // INTERVAL_SECONDS * INTERVAL_SECONDS
    for step in range(3600 // INTERVAL_SECONDS + 2):
        share = (time.time() + 3 - now) / INTERVAL_SECONDS if step == 0 else 1  # of the present interval, which is in progress
        rate = share * (900 + 500 * math.sin(step / 40) + 120 * math.sin(step / 5))
        failed = 130 if 90 < step < 100 else 0
        counts = {
            "accepted": int(rate),
            "sent": int(rate) - failed,
            "failed": failed,
            "time5": int(rate * 0.9),
            "time9": int(rate * 0.1),
        }
        start = now - step * INTERVAL_SECONDS
        await redis.hset(f"{key}{start}", items=[part for item in counts.items() for part in item])
        await redis.expire(f"{key}{start}", KEPT_SECONDS)
    await redis.aclose()


@asynccontextmanager
async def _running() -> AsyncIterator[tuple[Installation, Browser]]:
    services, namespace = find(), unique("screenshots")
    with of_template(services) as databases, databases.lent(namespace) as database, tempfile.TemporaryDirectory() as logs:
        async with installed(services, database, namespace, Path(logs)) as installation, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=require(CHROMIUM), args=["--no-sandbox"])
            yield installation, browser
            await browser.close()
    await drop_namespace(services.amqp, namespace, PROVIDERS)


async def main(arguments: argparse.Namespace) -> None:
    """Start an installation, fill it, and save its pages."""
    folder = ROOT / ("docs/images" if arguments.docs else ".local/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    async with _running() as (installation, browser):
        if arguments.docs:
            await save_images(installation, browser, folder)
        else:
            await save_all(installation, browser, folder, arguments.names)
    print(f"saved in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("names", nargs="*", help="pages; all without a name")
    parser.add_argument("--docs", action="store_true", help="save the images of docs/")
    asyncio.run(main(parser.parse_args()))
