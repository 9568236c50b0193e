"""A running stack for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, running
from tests.services import Services


@pytest.fixture
async def stack(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(services, database, broker_namespace, tmp_path) as started:
        yield started
