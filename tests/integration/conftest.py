"""The ledger on a database of its own: directly, and through a proxy."""

from collections.abc import AsyncIterator

import pytest

from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from tests.support.ledger import ProxiedStore, Store
from tests.support.services import proxied


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    pool = DatabasePool(database, name="test", threads=4)
    yield Store(Ledger(pool, grace_seconds=5), pool, database)
    pool.close()


@pytest.fixture
async def ledger(store: Store) -> Ledger:
    return store.ledger


@pytest.fixture
async def proxied_store(database: str) -> AsyncIterator[ProxiedStore]:
    url, proxy = await proxied(database)
    pool = DatabasePool(url, name="test", threads=4)
    yield ProxiedStore(Ledger(pool, grace_seconds=5), pool, database, proxy)
    pool.close()
    await proxy.close()
