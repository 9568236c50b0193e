"""A running stack for each test, one that later tests reuse, or one for all read-only tests of a module."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.databases import Databases
from tests.support.services import PROVIDERS, Services, drop_namespace, unique
from tests.support.stack import Stack, running
from tests.support.stacks import Stacks


@pytest.fixture(scope="module")
def stacks(services: Services, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    """Not for the whole session: idle processes poll their servers."""
    started = Stacks(services, databases, tmp_path_factory.mktemp("reused"))
    yield started
    started.close()


@pytest.fixture
async def stack(request: pytest.FixtureRequest, services: Services, namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """A stack of the test's own. With the mark `reuses_stack`, an earlier test may have run on it."""
    if request.node.get_closest_marker("reuses_stack"):
        stacks: Stacks = request.getfixturevalue("stacks")
        async with stacks.lent() as lent:
            yield lent
    else:
        async with running(services, request.getfixturevalue("database"), namespace, tmp_path) as started:
            yield started
        await drop_namespace(services.amqp, namespace, PROVIDERS)


@pytest.fixture
async def stack_with_short_leases(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> AsyncIterator[Stack]:
    """For tests that wait until the jobs of a lost worker are reaped."""
    async with running(services, database, broker_namespace, tmp_path, lease_seconds="4") as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_stack(
    services: Services, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """One stack for tests of a module that do not affect each other; they run in the module's loop."""
    namespace = unique("shared")
    with databases.lent(namespace) as database:
        async with running(services, database, namespace, tmp_path_factory.mktemp("shared")) as started:
            yield started
    await drop_namespace(services.amqp, namespace, PROVIDERS)
