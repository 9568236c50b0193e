"""The ledger on a database of its own, directly and through a proxy that can hurt its connections."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from tests.support.proxy import Proxy
from tests.support.services import proxied, sql


@dataclass
class Hurt:
    """A ledger whose every connection goes through `proxy`."""

    ledger: Ledger
    pool: DatabasePool
    proxy: Proxy
    database: str

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Look into the database, past the proxy."""
        return sql(self.database, statement)


@dataclass
class Store:
    """A ledger, without a proxy."""

    ledger: Ledger
    pool: DatabasePool
    database: str

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement on a connection of its own."""
        return sql(self.database, statement)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    pool = DatabasePool(database, name="test", threads=2)
    yield Store(Ledger(pool, grace_seconds=5), pool, database)
    pool.close()


@pytest.fixture
async def hurt(database: str) -> AsyncIterator[Hurt]:
    url, proxy = await proxied(database)
    pool = DatabasePool(url, name="test", threads=4)
    yield Hurt(Ledger(pool, grace_seconds=5), pool, proxy, database)
    pool.close()
    await proxy.close()
