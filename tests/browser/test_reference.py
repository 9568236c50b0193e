"""`/docs` in a browser, and the checks that every test of this room makes."""

import pytest
from playwright.async_api import Browser

from tests.browser import axe
from tests.browser.installation import Installation
from tests.browser.visits import PHONE, Visit, visiting
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_docs_are_accessible(browser: Browser, installation: Installation, theme: str) -> None:
    async with visiting(browser, installation.stack.base, theme=theme, size=PHONE) as visit:
        await visit.open("/docs")
        assert await axe.violations(visit.page) == []
        assert visit.problems == []


async def test_a_violation_is_found(visit: Visit) -> None:
    await visit.page.set_content(
        "<main><h1>Title</h1><img src='data:,'><p style='color: #bbb; background: #fff'>pale</p></main>"
    )
    found = " ".join(await axe.violations(visit.page))
    assert "image-alt" in found
    assert "color-contrast" in found
    visit.problems.clear()


async def test_a_message_of_the_console_and_an_error_of_a_script_are_problems(
    browser: Browser, installation: Installation
) -> None:
    async with visiting(browser, installation.stack.base) as visit:
        await visit.open("/docs")
        await visit.page.evaluate("console.warn('a warning'); setTimeout(() => { throw new Error('thrown') })")
        await until(lambda: visit.problems, lambda problems: len(problems) == 2)
        assert any("a warning" in problem for problem in visit.problems)
        assert any("thrown" in problem for problem in visit.problems)
        visit.expected = ["a warning"]
        assert len(visit.unexpected()) == 1


async def test_a_request_to_another_host_is_a_problem(browser: Browser, installation: Installation) -> None:
    async with visiting(browser, installation.stack.base) as visit:
        await visit.page.set_content("<img alt='' src='http://127.0.0.1:9/image.png'>")
        await until(lambda: visit.problems, lambda problems: any("another host" in problem for problem in problems))
