"""One browser and one installation for each module; each test has a browser context of its own, which no problem may leave."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from dev.tools import CHROMIUM, require
from tests.browser.installation import Installation, installed
from tests.browser.visits import PATIENCE_MS, Visit, visiting
from tests.support.databases import Databases
from tests.support.services import PROVIDERS, Services, drop_namespace, unique

expect.set_options(timeout=PATIENCE_MS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Chromium's sandbox refuses root.
        launched = await playwright.chromium.launch(executable_path=require(CHROMIUM), args=["--no-sandbox"])
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(
    services: Services, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installation]:
    """An installation for the tests of a module."""
    namespace = unique("browser")
    with databases.lent(namespace) as database:
        async with installed(services, database, namespace, tmp_path_factory.mktemp("browser")) as started:
            yield started
    await drop_namespace(services.amqp, namespace, PROVIDERS)


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, installation: Installation) -> AsyncIterator[Visit]:
    """A visit that fails its test if the console has a message, a script an error, or another host a request."""
    async with visiting(browser, installation.stack.base) as visit:
        yield visit
        assert visit.unexpected() == []
