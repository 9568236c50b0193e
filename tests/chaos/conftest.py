"""Fixtures of the simulations."""

from collections.abc import Iterator

import pytest
import structlog

from service import batching


@pytest.fixture(autouse=True)
def quietly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without log lines, and without pauses between repeats of a batch: time is what the test says."""
    monkeypatch.setattr(batching, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(batching, "_LONGEST_PAUSE", 0.0)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)
