"""A ledger on the test's own database."""

from dataclasses import dataclass

from infra.postgres.ledger import Ledger
from infra.postgres.pool import DatabasePool
from tests.support.proxy import Proxy
from tests.support.services import sql


@dataclass
class Store:
    """A ledger and its pool."""

    ledger: Ledger
    pool: DatabasePool
    database: str

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement on a direct connection."""
        return sql(self.database, statement)


@dataclass
class ProxiedStore(Store):
    """A ledger behind a proxy that can break its connections; `rows` bypasses the proxy."""

    proxy: Proxy
