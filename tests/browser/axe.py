"""axe-core, which finds violations of WCAG in a page. `axe-core/` has its release 4.14.1 of npm, unchanged."""

from pathlib import Path
from typing import Any

from playwright.async_api import Page

SCRIPT = Path(__file__).with_name("axe-core") / "axe.min.js"
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_RUN = "tags => axe.run(document, {runOnly: tags, resultTypes: ['violations']}).then(result => result.violations)"


async def violations(page: Page) -> list[str]:
    """Each violation on the page, with its rule and its element. The page's context has `SCRIPT` as an init script."""
    found: list[dict[str, Any]] = await page.evaluate(_RUN, _RULES)
    return [f"{rule['id']}: {rule['help']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
