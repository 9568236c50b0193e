"""The checks that every test of this room makes find what they look for."""

import pytest
from playwright.async_api import Browser

from tests.browser import axe
from tests.browser.visits import Visit, visiting
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = "http://127.0.0.1:9"
PAGE = "<main><h1>Title</h1>{}</main>"


async def _show(visit: Visit, content: str) -> None:
    await visit.page.set_content(f"<html lang='en'><title>Title</title>{PAGE.format(content)}</html>")


async def test_a_violation_is_found(browser: Browser) -> None:
    async with visiting(browser, NOWHERE) as visit:
        await _show(visit, "<p>black</p>")
        assert await axe.violations(visit.page) == []
        await _show(visit, "<img src='data:,'><p style='color: #bbb; background: #fff'>pale</p>")
        found = " ".join(await axe.violations(visit.page))
        assert "image-alt" in found
        assert "color-contrast" in found


async def test_a_message_of_the_console_and_an_error_of_a_script_are_problems(browser: Browser) -> None:
    async with visiting(browser, NOWHERE) as visit:
        await visit.page.evaluate("console.warn('a warning'); setTimeout(() => { throw new Error('thrown') })")
        await until(lambda: visit.problems, lambda problems: len(problems) == 2)
        assert any("a warning" in problem for problem in visit.problems)
        assert any("thrown" in problem for problem in visit.problems)
        visit.expected = ["a warning"]
        assert len(visit.unexpected()) == 1


async def test_a_request_to_another_host_is_a_problem(browser: Browser) -> None:
    async with visiting(browser, NOWHERE) as visit:
        await _show(visit, "<img alt='' src='http://127.0.0.2:9/image.png'>")
        await until(lambda: visit.problems, lambda problems: any("another host" in problem for problem in problems))
