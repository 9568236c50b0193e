"""Screenshots of every page, in both themes and two widths: `python -m tests.browser.screenshots [FOLDER] [NAME…]`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from dev.tools import CHROMIUM, require
from tests.browser.installation import Installation, installed
from tests.browser.pages import PAGES
from tests.browser.visits import DESKTOP, PHONE, visiting
from tests.support.databases import of_template
from tests.support.services import PROVIDERS, drop_namespace, find, unique


async def shoot(browser: Browser, base: str, folder: Path, paths: dict[str, str]) -> None:
    """Save each page in each theme and width."""
    for theme in ("light", "dark"):
        for size in (DESKTOP, PHONE):
            async with visiting(browser, base, theme=theme, size=size) as visit:
                for name, path in paths.items():
                    await visit.open(path)
                    await visit.page.screenshot(path=folder / f"{name}-{theme}-{size[0]}.png", full_page=True)


async def _all(installation: Installation, browser: Browser, folder: Path, names: set[str]) -> None:
    base = installation.stack.base

    def chosen(paths: dict[str, str], suffix: str = "") -> dict[str, str]:
        return {name + suffix: path for name, path in paths.items() if not names or name in names}

    if not names:
        await shoot(browser, base, folder, chosen(PAGES, "-empty"))
    paths = {**PAGES, **await installation.fill()}
    await shoot(browser, base, folder, chosen(paths))
    if not names:
        for service in ("redis", "postgres"):
            await installation.stack.proxies[service].refuse()
            await shoot(browser, base, folder, chosen(PAGES, f"-without-{service}"))
            await installation.stack.proxies[service].accept()


async def main(folder: Path, names: set[str]) -> None:
    """Start an installation, fill it, and save its pages."""
    folder.mkdir(parents=True, exist_ok=True)
    services, namespace = find(), unique("screenshots")
    with of_template(services) as databases, databases.lent(namespace) as database, tempfile.TemporaryDirectory() as logs:
        async with installed(services, database, namespace, Path(logs)) as installation, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=require(CHROMIUM), args=["--no-sandbox"])
            await _all(installation, browser, folder, names)
            await browser.close()
    await drop_namespace(services.amqp, namespace, PROVIDERS)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".local/screenshots"), set(sys.argv[2:])))
