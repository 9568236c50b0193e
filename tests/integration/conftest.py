"""The ledger on a database of its own, directly and through a proxy that can hurt its connections."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from infra.postgres.lanes import Lane
from infra.postgres.ledger import Ledger
from tests.proxy import Proxy
from tests.services import proxied, sql


@dataclass
class Hurt:
    """A ledger whose every connection goes through `proxy`."""

    ledger: Ledger
    lane: Lane
    proxy: Proxy
    database: str

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Look into the database, past the proxy."""
        return sql(self.database, statement)


@dataclass
class Store:
    """A ledger, without a proxy."""

    ledger: Ledger
    lane: Lane
    database: str

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement on a connection of its own."""
        return sql(self.database, statement)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    lane = Lane(database, name="test", threads=2)
    yield Store(Ledger(lane, grace_seconds=5), lane, database)
    lane.close()


@pytest.fixture
async def hurt(database: str) -> AsyncIterator[Hurt]:
    url, proxy = await proxied(database)
    lane = Lane(url, name="test", threads=4)
    yield Hurt(Ledger(lane, grace_seconds=5), lane, proxy, database)
    lane.close()
    await proxy.close()
