"""Fixtures of the simulations."""

from collections.abc import Callable, Iterator

import pytest
import structlog

from service import batching, statuses
from tests.chaos.backends import Backend, Connections
from tests.support.services import Services


@pytest.fixture(autouse=True)
def controlled_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disable log lines, the pauses before a batch is retried, and the delay of `processing`: the test controls time."""
    monkeypatch.setattr(statuses, "PROCESSING_SECONDS", 0.0)
    monkeypatch.setattr(batching, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(batching, "_LONGEST_PAUSE", 0.0)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.fixture
def backend(database: str, services: Services, namespace: str, patient_redis: None) -> Iterator[Callable[[], Backend]]:
    """Creates an empty ledger and cache; the connections are shared."""
    connections = Connections(database, services.redis, namespace)
    yield lambda: Backend(connections)
    connections.close()
