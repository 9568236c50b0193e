"""axe-core, which finds violations of WCAG in a page. `axe-core/` has its release 4.14.1 of npm, unchanged."""

from pathlib import Path
from typing import Any

from playwright.async_api import Page

_SCRIPT = (Path(__file__).with_name("axe-core") / "axe.min.js").read_text("utf-8")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_RUN = (
    "tags => axe.run(document, {runOnly: tags, resultTypes: ['violations'], preload: false}).then(result => result.violations)"
)


async def violations(page: Page) -> list[str]:
    """Each violation on the page, with its rule and its element. The debugger runs the script, so no policy forbids it."""
    await page.evaluate(_SCRIPT)
    found: list[dict[str, Any]] = await page.evaluate(_RUN, _RULES)
    return [f"{rule['id']}: {rule['help']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
