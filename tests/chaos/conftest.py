"""Fixtures of the simulations."""

from collections.abc import Iterator

import pytest
import structlog

from service import batching


@pytest.fixture(autouse=True)
def controlled_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disable log lines and the pauses before a batch is retried: the test controls time."""
    monkeypatch.setattr(batching, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(batching, "_LONGEST_PAUSE", 0.0)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)
