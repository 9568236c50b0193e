"""Thousands of orders of the steps of several processes, with a crash possible between any two.

In memory by the thousand, on the real Postgres and Redis by the dozen. Hypothesis shrinks a failure to the few steps it needs.
"""

from collections.abc import Iterator

import pytest

from tests.chaos.backends import RealBackend, RealConnections
from tests.chaos.interleavings import Interleavings, explore
from tests.support.services import Services


def test_in_memory() -> None:
    explore(Interleavings, examples=200, steps=40)


@pytest.fixture
def real(database: str, services: Services, namespace: str) -> Iterator[type[Interleavings]]:
    """The same, on the real ledger and cache; their connections are kept from one interleaving to the next."""
    servers = RealConnections(database, services.redis, namespace)

    class OnRealServers(Interleavings):
        backend = staticmethod(lambda: RealBackend(servers))

    yield OnRealServers
    servers.close()


def test_on_postgres_and_redis(real: type[Interleavings]) -> None:
    explore(real, examples=20, steps=40)
