"""A running stack for each test, or one for all read-only tests of a module."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.databases import Databases
from tests.support.services import PROVIDERS, Services, drop_namespace, unique
from tests.support.stack import Stack, running


@pytest.fixture
async def stack(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(services, database, broker_namespace, tmp_path) as started:
        yield started


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
