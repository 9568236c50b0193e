"""A visit: one page in a browser context of its own, and everything that is wrong with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request

from tests.support.waiting import eventually

DESKTOP = (1280, 900)
PHONE = (400, 800)
PATIENCE_MS = 30_000  # a busy machine is no failure


@dataclass
class Visit:
    """One page. `problems`: messages of its console, errors of its scripts, requests to other hosts.

    `expected`: texts of problems that the test causes, such as the status of an answer.
    """

    page: Page
    base: str
    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        self.problems.append(f"console {message.type}: {message.text} {message.location.get('url', '')}")

    def _on_request(self, request: Request) -> None:
        own, other = urlsplit(self.base), urlsplit(request.url)
        if other.scheme not in ("data", "blob") and other.netloc != own.netloc:
            self.problems.append(f"request to another host: {request.url}")

    async def open(self, path: str) -> None:
        """Open a page. On a busy machine Postgres may answer too late: the page is opened again."""
        known = len(self.problems)

        async def status() -> int | None:
            response = await self.page.goto(self.base + path)
            return None if response is None else response.status

        if await eventually(status, lambda status: status != 503):
            self.problems[known:] = [each for each in self.problems[known:] if "status of 503" not in each]

    async def until_shown(self, path: str, text: str) -> None:
        """Open a page again until it shows the text."""

        async def shown() -> str:
            await self.page.goto(self.base + path)
            return await self.page.inner_text("body")

        await eventually(shown, lambda body: text in body)

    def unexpected(self) -> list[str]:
        return [problem for problem in self.problems if not any(text in problem for text in self.expected)]


@asynccontextmanager
async def visiting(
    browser: Browser, base: str, *, theme: str = "light", size: tuple[int, int] = DESKTOP, scripts: bool = True
) -> AsyncIterator[Visit]:
    """Visit with a browser context of its own. `theme`: light or dark; `scripts`: whether JavaScript runs."""
    width, height = size
    context = await browser.new_context(
        color_scheme="dark" if theme == "dark" else "light",
        viewport={"width": width, "height": height},
        java_script_enabled=scripts,
        reduced_motion="reduce",
    )
    try:
        context.set_default_timeout(PATIENCE_MS)
        visit = Visit(await context.new_page(), base)
        visit.watch()
        yield visit
    finally:
        await context.close()
